"""What the server sends is what the client raises."""

import copy
import pickle

import grpc
import pytest

from carryover.client import errors
from carryover.client.errors import error_class, from_session_error, from_status
from protos.carryover.v1 import carryover_pb2 as pb
from service.errors import InternalFailure, InvalidInput, Overloaded, ServiceError, StepMismatch
from service.rpc.status import CODES, INTERNAL_MESSAGE, describe


def example(cls: type[ServiceError]) -> ServiceError:
    if cls is InvalidInput:
        return InvalidInput("beam_size", "1 to 8", "9")
    if cls is Overloaded:
        return Overloaded("8 requests are waiting", 1.25)
    if cls is StepMismatch:
        return StepMismatch("step.first_step", 4, 6)
    return cls("what happened")


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.__name__)
def test_every_error_of_the_service_has_a_class_of_its_own(cls: type[ServiceError]) -> None:
    status = describe(example(cls))
    error = from_status(status.code, status.message, status.details)
    assert type(error) is not errors.CarryoverError
    assert (error.code, error.reason) == (CODES[cls].name, cls.reason)
    assert str(error) == (INTERNAL_MESSAGE if cls.reason == "INTERNAL" else str(example(cls)))
    again = from_session_error(
        pb.SessionError(
            code=status.code.value[0],
            reason=status.reason,
            message=status.message,
            retry_after_s=status.retry_after_s,
            violations=status.violations,
        )
    )
    assert (type(again), str(again), again.retry_after_s) == (type(error), str(error), error.retry_after_s)
    assert again.metadata == error.metadata
    assert again.violations == error.violations or cls is StepMismatch  # BadRequest is for bad requests alone


def test_each_reason_gives_the_class_of_the_same_name() -> None:
    other = {"InvalidInput": "InvalidArgument", "RequestCancelled": "Cancelled", "InternalFailure": "InternalError"}
    for cls, code in CODES.items():
        assert error_class(code, cls.reason).__name__ == other.get(cls.__name__, cls.__name__)


def test_details_are_all_there() -> None:
    status = describe(InvalidInput("tokens[3]", "a word", "''"))
    error = from_status(status.code, status.message, status.details)
    assert isinstance(error, errors.InvalidArgument)
    assert error.violations == (errors.Violation("tokens[3]", "expected a word, got ''"),)
    assert error.metadata == {"field": "tokens[3]", "expected": "a word", "got": "''"}
    status = describe(Overloaded("full", 1.25))
    assert from_status(status.code, status.message, status.details).retry_after_s == 1.25


@pytest.mark.parametrize("details", [None, b"", b"\xff\xff", b"\x1a\x02\x0a\x00"])
def test_a_status_without_details_goes_by_its_code(details: bytes | None) -> None:
    for code, cls in (
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (grpc.StatusCode.UNIMPLEMENTED, errors.CarryoverError),
    ):
        error = from_status(code, "message", details)
        assert (type(error), error.reason, error.code, str(error)) == (cls, "", code.name, "message")


def test_details_of_somebody_else_are_not_taken_for_ours() -> None:
    details = describe(Overloaded("full", 1.0)).details.replace(b"carryover", b"otherovsr")
    assert type(from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "m", details)) is errors.ResourceExhausted


def test_a_call_cut_off_by_the_server_is_unavailable_and_one_cancelled_here_is_not() -> None:
    assert type(from_status(grpc.StatusCode.CANCELLED, "CANCELLED", None)) is errors.Unavailable
    here = from_status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", None)
    assert type(here) is errors.Cancelled


def test_a_connection_that_breaks_under_a_write_is_unavailable_and_a_fault_of_the_server_is_not() -> None:
    assert type(from_status(grpc.StatusCode.INTERNAL, "Internal error from Core", None)) is errors.Unavailable
    assert type(from_status(grpc.StatusCode.INTERNAL, "internal error", None)) is errors.InternalError
    details = describe(InternalFailure("x")).details
    assert type(from_status(grpc.StatusCode.INTERNAL, "Internal error from Core", details)) is errors.InternalError


def test_errors_can_be_hashed_copied_and_pickled() -> None:
    error = errors.Overloaded("full", "RESOURCE_EXHAUSTED", "OVERLOADED", {"a": "b"}, (), 2.0)
    assert len({error, error}) == 1
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), vars(twin)) == (errors.Overloaded, vars(error))
