"""Which errors of CUDA stay with the process."""

import pytest

from service.runtime.errors import DeviceFailure, RunnerError, is_device_lost

ORT = (
    "Non-zero status code returned while running Gather node. Name:'g' Status Message: CUDA error: {} ; GPU=0 ; expr=x"
)


@pytest.mark.parametrize(
    ("code", "text", "lost"),
    [
        (700, "an illegal memory access was encountered", True),
        (719, "unspecified launch failure", True),
        (710, "device-side assert triggered", True),
        (2, "out of memory", False),
        (9, "invalid configuration argument", False),
        (900, "operation not permitted when stream is capturing", False),
    ],
)
def test_an_error_stays_if_cuda_says_so_of_its_code_whoever_tells_it(code: int, text: str, lost: bool) -> None:
    assert is_device_lost(DeviceFailure("cudaMemcpyAsync", 0, code, text)) == lost
    assert is_device_lost(RuntimeError(ORT.format(f"CUDA failure {code}: {text}"))) == lost


def test_other_errors_say_nothing_of_the_gpu() -> None:
    assert not is_device_lost(RunnerError("the GPU: expected it to be free within 120 s, got no turn"))
    assert not is_device_lost(ValueError("index 700 is out of bounds"))


def test_a_failed_call_says_what_was_expected_and_got() -> None:
    error = DeviceFailure("cudaMemset", 1, 700, "an illegal memory access was encountered")
    assert str(error) == "cudaMemset on GPU 1: expected success, got 700: an illegal memory access was encountered"
