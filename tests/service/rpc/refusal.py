"""Read a refusal as a caller sees it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2


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
    error = caught.value
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(details, bytes), f"no details: {error.code()} {error.details()}"
    packed = {d.type_url.rpartition(".")[2]: d.value for d in status_pb2.Status.FromString(details).details}
    info = error_details_pb2.ErrorInfo.FromString(packed["ErrorInfo"])
    assert info.domain == "carryover"
    return Refusal(error.code(), error.details() or "", info.reason, info.metadata.get("field", ""))


async def drained(stream: Any) -> list[Any]:
    """Read a server stream to its end."""
    return [message async for message in stream]
