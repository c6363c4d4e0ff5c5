"""Read a refusal as a caller sees it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

OVERTAKEN = "Internal error from Core"  # grpcio's words, not the service's


@dataclass(frozen=True)
class Refusal:
    """A call's status with its ErrorInfo; `field` is empty where no field is at fault."""

    code: grpc.StatusCode
    message: str
    reason: str
    field: str


async def refusal(call: Awaitable[Any]) -> Refusal:
    """Await a call that must fail. A stream is read to its end by `drained`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return _parsed(caught.value)


async def refusal_of_writer(call: Awaitable[Any]) -> Refusal | None:
    """The same of a stream with a write under way; None where grpcio lost the status.

    A write that the end of the call overtakes fails on its own, and what comes of it first is the call's status for
    grpcio: the server's, or INTERNAL of its own making.
    """
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return None if caught.value.details() == OVERTAKEN else _parsed(caught.value)


def _parsed(error: grpc.aio.AioRpcError) -> Refusal:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(details, bytes), f"no details: {error.code()} {error.details()}"
    packed = {d.type_url.rpartition(".")[2]: d.value for d in status_pb2.Status.FromString(details).details}
    info = error_details_pb2.ErrorInfo.FromString(packed["ErrorInfo"])
    assert info.domain == "carryover"
    return Refusal(error.code(), error.details() or "", info.reason, info.metadata.get("field", ""))


async def drained(stream: Any) -> list[Any]:
    """Read a server stream to its end."""
    return [message async for message in stream]
