"""Who makes a call, by what came with it."""

import pytest

from service.caller import bearer_token, caller_name, is_loopback
from service.errors import InvalidInput


def test_a_name_is_what_was_given_once_and_nothing_where_none_was() -> None:
    assert caller_name([]) is None
    assert caller_name(["alice-0123456789"]) == caller_name([b"alice-0123456789"]) == "alice-0123456789"
    assert caller_name(["x" * 128]) == "x" * 128


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (["x" * 15], "15 characters"),
        (["x" * 129], "129 characters"),
        ([""], "0 characters"),
        (["x" * 16 + "\n"], "other characters"),
        (["é" * 16], "other characters"),
        ([b"\xff" * 16], "other characters"),
        (["alice-0123456789"] * 2, "2 values"),
    ],
)
def test_a_name_that_could_be_guessed_or_read_in_two_ways_is_refused(values: list[str | bytes], got: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        caller_name(values)
    expected = "carryover-caller: expected 16 to 128 printable ASCII characters, once, got "
    assert str(caught.value) == expected + got  # and not what it was: that stays with its caller


def test_the_token_is_that_of_the_first_bearer() -> None:
    assert bearer_token(["Bearer secret"]) == bearer_token(["bEARER  secret "]) == "secret"
    assert bearer_token(["Basic abc", "Bearer one", "Bearer two"]) == "one"
    assert bearer_token(["Bearer"]) == ""
    assert bearer_token([]) is None
    assert bearer_token(["Basic abc", "Bearersecret", ""]) is None


def test_loopback_is_what_only_this_machine_has() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(host), host
    for host in ("10.0.0.1", "8.8.8.8", "::", "0.0.0.0", "fe80::1", "::ffff:8.8.8.8", "", "127.0.0.1.example"):
        assert not is_loopback(host), host
