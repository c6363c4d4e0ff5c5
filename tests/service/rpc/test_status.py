import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from service import errors
from service.rpc.status import CODES, DOMAIN, INTERNAL_MESSAGE, Status, describe, shorten


def all_errors() -> list[type[errors.ServiceError]]:
    found: list[type[errors.ServiceError]] = []
    queue = [errors.ServiceError]
    while queue:
        children = queue.pop().__subclasses__()
        found += children
        queue += children
    return [cls for cls in found if cls.__module__ == errors.__name__]


def details_of(status: Status) -> dict[str, bytes]:
    parsed = status_pb2.Status.FromString(status.details)
    assert parsed.code == status.code.value[0]
    assert parsed.message == status.message
    return {detail.type_url.rpartition(".")[2]: detail.value for detail in parsed.details}


def test_every_error_class_has_a_status_and_a_reason_of_its_own() -> None:
    classes = all_errors()
    assert len(classes) > 8
    assert set(CODES) == set(classes)
    reasons = [cls.reason for cls in classes]
    assert len(set(reasons)) == len(reasons)


def test_invalid_input_names_field_expected_and_got() -> None:
    status = describe(errors.InvalidInput("beam_size", "1 to 8", "99"))
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.message == "beam_size: expected 1 to 8, got 99"
    details = details_of(status)
    info = error_details_pb2.ErrorInfo.FromString(details["ErrorInfo"])
    assert (info.reason, info.domain) == ("INVALID_INPUT", DOMAIN)
    assert dict(info.metadata) == {"field": "beam_size", "expected": "1 to 8", "got": "99"}
    (violation,) = error_details_pb2.BadRequest.FromString(details["BadRequest"]).field_violations
    assert (violation.field, violation.description) == ("beam_size", "expected 1 to 8, got 99")


def test_overload_says_when_to_come_back() -> None:
    status = describe(errors.Overloaded("waiting requests: at most 8", 0.25))
    assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    delay = error_details_pb2.RetryInfo.FromString(details_of(status)["RetryInfo"]).retry_delay
    assert delay.ToMilliseconds() == 250
    assert status.retry_after_s == 0.25


@pytest.mark.parametrize("error", [errors.InternalFailure("slot 17 leaked in /srv"), errors.ServiceError("secret")])
def test_our_own_fault_shows_nothing_of_the_inside(error: errors.ServiceError) -> None:
    status = describe(error)
    assert (status.code, status.message, status.reason) == (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE, "INTERNAL")
    assert b"leaked" not in status.details
    assert b"secret" not in status.details


def test_a_long_text_is_cut_to_fit_a_header_and_says_so() -> None:
    status = describe(errors.InvalidInput("\N{PILE OF POO}" * 9999, "x" * 9999, "\N{PILE OF POO}" * 9999))
    assert len(status.details) + 12 * len(status.message) < 16 * 1024
    assert shorten("y" * 400).endswith("(400 characters in all)")
    assert shorten("y" * 300) == "y" * 300
