"""Answers that are given before all of a request has come."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SILENCE_S: Final = 1.0  # after which a sender is taken to have stopped


@dataclass(frozen=True)
class Unread:
    """How much is still read of a request that is answered already.

    Args:
        max_bytes: At most.
        timeout_s: Seconds that it may take at most.
    """

    max_bytes: int
    timeout_s: float


class EarlyResponse(Response):
    """An answer that is whole at once; what still comes of its request is read for a while and thrown away.

    Were the connection closed with something unread, its sender would find it reset, and perhaps never see the answer.
    """

    unread: Unread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, read on, and end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.unread.timeout_s):
                await self._read_on(receive)
        await send({"type": "http.response.body", "body": b""})

    async def _read_on(self, receive: Receive) -> None:
        left = self.unread.max_bytes
        while left > 0:
            async with asyncio.timeout(SILENCE_S):
                message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))
