"""Regions of this machine's memory, as L0_shared_memory uses them."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from tests.system.oip.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

VALUES = np.arange(16, dtype=np.float32).reshape(2, 8)
_numbers = itertools.count()


@pytest.fixture(params=["grpc", "http"])
def library(request: pytest.FixtureRequest) -> Any:
    return grpc_client if request.param == "grpc" else http_client


@pytest.fixture
def client(library: Any, server: Server) -> Iterator[Any]:
    opened = library.InferenceServerClient(server.grpc if library is grpc_client else server.http)
    yield opened
    opened.unregister_system_shared_memory()
    opened.close()


@contextmanager
def region(num_bytes: int) -> Iterator[tuple[str, str, Any]]:
    """A region of memory: what the tests call it, its key, and tritonclient's handle."""
    name = f"carryover-test-{os.getpid()}-{next(_numbers)}"
    handle = shm.create_shared_memory_region(name, f"/{name}", num_bytes)
    try:
        yield name, f"/{name}", handle
    finally:
        shm.destroy_shared_memory_region(handle)


def given(library: Any, name: str, num_bytes: int, offset: int = 0) -> Any:
    """The model's input, out of a region."""
    tensor = library.InferInput("IN_FP32", list(VALUES.shape), "FP32")
    tensor.set_shared_memory(name, num_bytes, offset)
    return tensor


def wanted(library: Any, name: str, num_bytes: int, offset: int = 0) -> Any:
    """The model's output, into a region."""
    output = library.InferRequestedOutput("OUT_FP32")
    output.set_shared_memory(name, num_bytes, offset)
    return output


def status(client: Any) -> dict[str, Any]:
    """The regions that the server knows."""
    if isinstance(client, http_client.InferenceServerClient):
        return {entry["name"]: entry for entry in client.get_system_shared_memory_status()}
    return dict(client.get_system_shared_memory_status(as_json=True).get("regions", {}))


def test_inputs_and_outputs_lie_in_regions(library: Any, client: Any) -> None:
    size = VALUES.nbytes
    with region(size + 64) as (name, key, handle), region(2 * size) as (out_name, out_key, out_handle):
        shm.set_shared_memory_region(handle, [VALUES], offset=64)
        client.register_system_shared_memory(name, key, size + 64)
        client.register_system_shared_memory(out_name, out_key, 2 * size)
        assert set(status(client)) == {name, out_name}
        result = client.infer(
            "identity", [given(library, name, size, 64)], outputs=[wanted(library, out_name, size, size)]
        )
        written = shm.get_contents_as_numpy(out_handle, np.float32, [2, 2, 8])
        np.testing.assert_array_equal(written[1], VALUES)
        assert not written[0].any()
        assert not list(getattr(result.get_response(), "raw_output_contents", [b""])[0])  # nothing beside the region
        described = result.get_output("OUT_FP32")
        shape = described["shape"] if isinstance(described, dict) else list(described.shape)
        assert shape == [2, 8]
        client.unregister_system_shared_memory(name)
        assert set(status(client)) == {out_name}


def test_only_the_input_may_lie_in_a_region(library: Any, client: Any) -> None:
    with region(VALUES.nbytes) as (name, key, handle):
        shm.set_shared_memory_region(handle, [VALUES])
        client.register_system_shared_memory(name, key, VALUES.nbytes)
        for factor in (1, 2, 3):  # it is read anew each time
            shm.set_shared_memory_region(handle, [factor * VALUES])
            result = client.infer("identity", [given(library, name, VALUES.nbytes)])
            np.testing.assert_array_equal(result.as_numpy("OUT_FP32"), factor * VALUES)


def test_a_part_of_a_region_may_be_registered(library: Any, client: Any) -> None:
    size = VALUES.nbytes
    with region(3 * size) as (name, key, handle):
        shm.set_shared_memory_region(handle, [VALUES], offset=2 * size)
        client.register_system_shared_memory(name, key, size, offset=2 * size)
        result = client.infer("identity", [given(library, name, size)])
        np.testing.assert_array_equal(result.as_numpy("OUT_FP32"), VALUES)


def refused(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(InferenceServerException) as refusal:
        call(*arguments, **named)
    return str(refusal.value)


def test_regions_that_are_not_registered_are_refused(library: Any, client: Any) -> None:
    assert "Unable to find shared memory region: 'nosuch'" in refused(
        client.infer, "identity", [given(library, "nosuch", VALUES.nbytes)]
    )


def test_a_region_that_is_unregistered_is_known_no_more(library: Any, client: Any) -> None:
    with region(VALUES.nbytes) as (name, key, _):
        client.register_system_shared_memory(name, key, VALUES.nbytes)
        client.unregister_system_shared_memory(name)
        assert name in refused(client.infer, "identity", [given(library, name, VALUES.nbytes)])
        client.register_system_shared_memory(name, key, VALUES.nbytes)
        client.infer("identity", [given(library, name, VALUES.nbytes)])


def test_a_name_that_is_taken_is_refused(client: Any) -> None:
    with region(64) as (name, key, _):
        client.register_system_shared_memory(name, key, 64)
        assert f"shared memory region '{name}' already in manager" in refused(
            client.register_system_shared_memory, name, key, 64
        )
        assert set(status(client)) == {name}


@pytest.mark.parametrize(
    "key", ["/nosuch-region-of-carryover", "/../etc/passwd", "/../../etc/passwd", "/etc/passwd", "", "/", "/."]
)
def test_keys_of_nothing_are_refused(client: Any, key: str) -> None:
    refused(client.register_system_shared_memory, "region", key, 16)
    assert status(client) == {}


@pytest.mark.parametrize(("num_bytes", "offset"), [(10**9, 0), (64, 8192), (2**63 - 1, 2**63 - 1), (0, 0)])
def test_bytes_that_a_region_does_not_have_are_refused(client: Any, num_bytes: int, offset: int) -> None:
    with region(64) as (name, key, _):
        refused(client.register_system_shared_memory, name, key, num_bytes, offset=offset)
        assert status(client) == {}


@pytest.mark.parametrize(("num_bytes", "offset"), [(64, 8), (64, 2**40), (128, 0), (32, 0)])
def test_a_tensor_must_lie_in_its_region_and_fill_its_shape(
    library: Any, client: Any, num_bytes: int, offset: int
) -> None:
    with region(64) as (name, key, _):
        client.register_system_shared_memory(name, key, 64)
        refused(client.infer, "identity", [given(library, name, num_bytes, offset)])


def test_a_region_that_is_too_small_for_the_output_is_refused_and_not_written(library: Any, client: Any) -> None:
    tensor = library.InferInput("IN_FP32", list(VALUES.shape), "FP32")
    tensor.set_data_from_numpy(VALUES + 1)
    with region(64) as (name, key, handle):
        client.register_system_shared_memory(name, key, 64)
        for num_bytes in (32, 64):
            refused(client.infer, "identity", [tensor], outputs=[wanted(library, name, num_bytes - 4)])
            assert not shm.get_contents_as_numpy(handle, np.float32, [16]).any()


def test_sequences_step_out_of_and_into_regions(library: Any, client: Any) -> None:
    with region(8) as (name, key, handle), region(8) as (out_name, out_key, out_handle):
        client.register_system_shared_memory(name, key, 8)
        client.register_system_shared_memory(out_name, out_key, 8)
        tensor = library.InferInput("INPUT", [1, 1], "INT64")
        tensor.set_shared_memory(name, 8)
        output = library.InferRequestedOutput("OUTPUT")
        output.set_shared_memory(out_name, 8)
        for i in range(1, 6):
            shm.set_shared_memory_region(handle, [np.array([[i]])])
            client.infer(
                "accumulator",
                [tensor],
                outputs=[output],
                sequence_id=9_999_999,
                sequence_start=i == 1,
                sequence_end=i == 5,
            )
            assert shm.get_contents_as_numpy(out_handle, np.int64, [1])[0] == i * (i + 1) // 2
