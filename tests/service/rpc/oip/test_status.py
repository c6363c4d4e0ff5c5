from typing import get_args
from urllib.parse import quote

import grpc
import pytest

from service import errors
from service.oip.errors import Code, OipError
from service.rpc.oip.status import CODES, MAX_ENCODED_BYTES, describe_inference, shorten


def test_every_code_has_a_status() -> None:
    assert set(CODES) == set(get_args(Code))
    assert len(set(CODES.values())) == len(CODES)


def test_texts_of_the_protocol_go_out_as_they_are() -> None:
    told = describe_inference(OipError("unimplemented", "'repository_name' specification is not supported"))
    assert (told.code, told.message, told.trailers) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "'repository_name' specification is not supported",
        (),
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x", "a", "b"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.Overloaded("full", 1.0), grpc.StatusCode.UNAVAILABLE),
        (errors.ShuttingDown("over"), grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.RequestCancelled("gone"), grpc.StatusCode.CANCELLED),
        (errors.InternalFailure("secret"), grpc.StatusCode.INTERNAL),
    ],
)
def test_errors_of_the_service_have_codes_of_the_protocol(error: errors.ServiceError, code: grpc.StatusCode) -> None:
    told = describe_inference(error)
    assert told.code is code
    assert "secret" not in told.message


@pytest.mark.parametrize("text", ["x" * 5000, "ß" * 900, "字" * 900, "%" * 2000, "\n" * 2000])
def test_a_text_that_would_not_fit_a_header_is_cut_and_says_so(text: str) -> None:
    got = shorten(text)
    assert got.endswith(f"... ({len(text)} characters in all)")
    assert len(quote(got.encode())) <= MAX_ENCODED_BYTES + 100


@pytest.mark.parametrize("text", ["", "x" * MAX_ENCODED_BYTES, "字" * (MAX_ENCODED_BYTES // 9)])
def test_a_text_that_fits_is_not_cut(text: str) -> None:
    assert shorten(text) == text


def test_what_is_no_text_does_not_break_the_answer() -> None:
    assert shorten("a\ud800b") == "a?b"
