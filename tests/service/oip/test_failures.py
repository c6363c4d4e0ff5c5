"""What the protocol's clients are told of the service's own errors."""

import pytest

from service import errors
from service.errors import InternalFailure, ServiceError, ShuttingDown
from service.oip.failures import to_oip


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.InvalidInput("x", "a", "b"), "invalid_argument", "x: expected a, got b"),
        (errors.ModelNotFound("no m"), "not_found", "no m"),
        (errors.WrongTask("another task"), "invalid_argument", "another task"),
        (errors.SessionNotFound("no 7"), "invalid_argument", "no 7"),  # as the reference server: START is missing
        (errors.SessionExpired("idle"), "invalid_argument", "idle"),
        (errors.SessionClosed("closed"), "invalid_argument", "closed"),
        (errors.SessionExists("there"), "already_exists", "there"),
        (errors.MarkNotFound("no mark"), "invalid_argument", "no mark"),
        (
            errors.StepMismatch("step", 2, 3),
            "invalid_argument",
            "step: expected 2, the steps that the session has taken by then, got 3",
        ),
        (errors.Overloaded("full", 1.0), "unavailable", "[request id: r1] Exceeds maximum queue size: full"),
        (errors.DeadlineExceeded("late"), "deadline_exceeded", "late"),
        (errors.RequestCancelled("gone"), "cancelled", "gone"),
        (
            errors.ShuttingDown("soon over"),
            "unavailable",
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
        ),
        (errors.InternalFailure("slot 17 leaked"), "internal", "the service failed; its log says why"),
    ],
)
def test_each_error_is_told_with_the_code_that_clients_know(error: ServiceError, code: str, message: str) -> None:
    told = to_oip(error, "r1")
    assert (told.code, told.message) == (code, message)


def test_who_asked_is_told_only_where_it_is_known() -> None:
    assert to_oip(errors.Overloaded("full", 1.0)).message.startswith("[request id: <id_unknown>] Exceeds")


def test_every_error_of_the_service_has_a_code_and_its_own_fault_is_not_shown() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]
    for kind in kinds:
        error = kind.__new__(kind)
        Exception.__init__(error, "told")
        told = to_oip(error)
        expected_internal = kind in (ServiceError, InternalFailure)
        assert (told.code == "internal") is expected_internal
        assert ("told" in told.message) is (not expected_internal and kind is not ShuttingDown)
