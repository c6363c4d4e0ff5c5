"""Many sentences over one TagStream, for the blocking client."""

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from carryover.client import types
from carryover.client.errors import from_rpc_error
from carryover.client.tag_window import TagWindow, ended_early
from protos.carryover.v1 import carryover_pb2 as pb


def tag_many(
    method: Callable[[Iterator[pb.TagStreamRequest]], Any], window: TagWindow
) -> Iterator[types.TaggedSequence]:
    """Send what fits the window, give what is ready in order, and again.

    Args:
        method: Opens the stream, given its messages, which gRPC takes on a thread of its own.
        window: What to send.
    """
    outgoing: queue.SimpleQueue[pb.TagStreamRequest | None] = queue.SimpleQueue()
    call = method(iter(outgoing.get, None))
    try:
        while True:
            while (message := window.message()) is not None:
                outgoing.put(message)
            if not window.in_flight:
                return
            response = next(call, None)
            if response is None:
                raise ended_early()
            window.take(response)
            yield from window.given()
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    finally:
        outgoing.put(None)
        call.cancel()
