"""Many sentences over one TagStream, for the asyncio client."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
import grpc.aio

from carryover.client import types
from carryover.client.aio_line import status_of
from carryover.client.aio_token_stream import answer_of
from carryover.client.errors import from_rpc_error
from carryover.client.tag_window import TagWindow, ended_early


async def tag_many(method: Callable[[], Any], window: TagWindow) -> AsyncGenerator[types.TaggedSequence, None]:
    """Send what fits the window, give what is ready in order, and again.

    Args:
        method: Opens the stream.
        window: What to send.
    """
    call = method()
    writing: asyncio.Task[None] | None = None
    try:
        while True:
            if writing is not None and not window.in_flight:  # the last answer came before this side knew it had asked
                await asyncio.wait([writing])
            # Answers are read while a message goes out: a server that has enough in flight reads no further before.
            if writing is None or writing.done():
                if writing is not None and not writing.cancelled():
                    writing.exception()  # where there is one, the reader hears why
                message = window.message()
                if message is not None:
                    writing = asyncio.create_task(call.write(message))
                elif not window.in_flight:
                    return
            response = await answer_of(call.read())
            if response is grpc.aio.EOF:
                if await call.code() is not grpc.StatusCode.OK:
                    raise from_rpc_error(await status_of(call))
                raise ended_early()
            window.take(response)
            for tagged in window.given():
                yield tagged
    finally:
        call.cancel()
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
