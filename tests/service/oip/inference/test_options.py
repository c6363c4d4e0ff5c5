import pytest

from service.engine.interface import Priority
from service.oip.errors import OipError
from service.oip.inference.options import Options, read_options


def test_options_are_read_and_what_is_the_clients_own_is_let_through() -> None:
    parameters: dict[str, bool | int | float | str] = {
        "sequence_id": "s",
        "sequence_start": True,
        "sequence_end": True,
        "priority": 1,
        "timeout": 1500,
        "mine": 0.5,
        "triton_enable_empty_final_response": True,
    }
    assert read_options(parameters) == Options("s", True, True, Priority.HIGH, 0.0015)
    assert read_options({}) == Options()
    assert read_options({"sequence_id": 2**64 - 1}).sequence_id == 2**64 - 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sequence_id", True, "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_id", 1.0, "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_id", "é" * 65, "'sequence_id' parameter must have at most 128 bytes"),
        ("sequence_start", 1, "invalid value type for 'sequence_start' parameter, expected bool_param."),
        ("sequence_end", "true", "invalid value type for 'sequence_end' parameter, expected bool_param."),
        ("priority", -1, "invalid value type for 'priority' parameter, expected int64_param or uint64_param that is "
         "not negative."),
        ("priority", True, "invalid value type for 'priority' parameter, expected int64_param or uint64_param that is "
         "not negative."),
        ("timeout", 0.5, "invalid value type for 'timeout' parameter, expected int64_param."),
        ("timeout", -1, "'timeout' parameter must not be negative, got -1"),
        ("triton_x", 1, "parameter keys starting with 'triton_' are reserved for Triton usage, got 'triton_x'"),
    ],
)  # fmt: skip
def test_an_impossible_option_is_refused(name: str, value: bool | int | float | str, message: str) -> None:
    with pytest.raises(OipError) as caught:
        read_options({name: value})
    assert (caught.value.code, caught.value.message) == ("invalid_argument", message)
