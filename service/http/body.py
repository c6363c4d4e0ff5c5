"""Reads the body of a request: no longer, no slower and no more of them at a time than the limits say."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from service.http.early import Unread
from service.http.status import HttpError

LEAST_BYTES_PER_S = 16 * 2**10  # a body that comes more slowly, after its first seconds, is given up
MAX_DISCARDED = 4  # times the limit that is read of a body that is too long, so that its sender gets to read why
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class BodyLimits:
    """Bounds on bodies.

    Args:
        max_bytes: Of one body, as sent and as decompressed.
        max_held_bytes: Of all bodies that are being read or worked on.
        timeout_s: Seconds for a body, besides those that its length takes at LEAST_BYTES_PER_S.
    """

    max_bytes: int
    max_held_bytes: int
    timeout_s: float


class Bodies:
    """Counts the bytes of all bodies that are held.

    Args:
        limits: What to keep to.

    Attributes:
        held: Bytes of the bodies that are being read or worked on.
    """

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, decompressed, and count its bytes for as long as it is worked on.

        Raises:
            HttpError: Too long, too slow, too much in all, or compressed in a way that is not offered or not right.
            ClientDisconnect: The caller has gone.
        """
        taken: list[int] = []
        try:
            yield await self._read(request, taken)
        finally:
            self.held -= sum(taken)

    async def _read(self, request: Request, taken: list[int]) -> bytes:
        limits = self._limits
        unpack = _Unpacker(request, limits.max_bytes)
        declared, chunks = _declared_bytes(request), request.stream()
        if declared > limits.max_bytes:
            raise self._too_long(declared, "expect" not in request.headers)
        parts: list[bytes] = []
        start, received = time.monotonic(), 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.timeout_s) as timeout:
                async for chunk in chunks:
                    received += len(chunk)
                    if received > limits.max_bytes:
                        raise self._too_long(received, True)
                    part = unpack(chunk)
                    self._take(len(part))
                    taken.append(len(part))
                    parts.append(part)
                    waited_s = time.monotonic() - start
                    left_s = limits.timeout_s + received / LEAST_BYTES_PER_S - waited_s
                    timeout.reschedule(loop.time() + left_s)
        except TimeoutError:
            late = f"expected the whole body within {limits.timeout_s:g} s, got {received} bytes"
            raise HttpError(408, late, close=True) from None
        unpack.finish()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, num_bytes: int) -> None:
        if self.held + num_bytes > self._limits.max_held_bytes:
            full = f"expected at most {self._limits.max_held_bytes} bytes of requests at a time, got more"
            raise HttpError(503, full, close=True, headers={"retry-after": "1"}, unread=self._unread)
        self.held += num_bytes

    def _too_long(self, got: int, is_coming: bool) -> HttpError:
        """Say so at once, though the body is still coming."""
        limits = self._limits
        expected = f"expected a body of at most {limits.max_bytes} bytes, got {got} or more"
        return HttpError(413, expected, close=True, unread=self._unread if is_coming else None)

    @property
    def _unread(self) -> Unread:
        return Unread(MAX_DISCARDED * self._limits.max_bytes, self._limits.timeout_s)


class _Unpacker:
    """Decompresses a body as it comes.

    Raises:
        HttpError: The request says that it is compressed in a way that is not offered.
    """

    def __init__(self, request: Request, max_bytes: int) -> None:
        encoding = request.headers.get("content-encoding", "").strip().lower()
        self._encoding = encoding
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._stream = None
        if encoding in _WINDOW_BITS:
            self._stream = zlib.decompressobj(_WINDOW_BITS[encoding])
        elif encoding not in ("", "identity"):
            raise HttpError(
                501, "Unsupported compression type", close=True, headers={"accept-encoding": "gzip, deflate"}
            )

    def __call__(self, chunk: bytes) -> bytes:
        """Decompress a piece.

        Raises:
            HttpError: It is not what it says, or becomes too long.
        """
        if self._stream is None:
            return chunk
        try:
            part = self._stream.decompress(chunk, self._left + 1)
        except zlib.error:
            raise HttpError(400, f"expected a body in {self._encoding}, got something else", close=True) from None
        self._left -= len(part)
        if self._left < 0:
            raise HttpError(413, f"expected at most {self._max_bytes} bytes when decompressed, got more", close=True)
        if self._stream.unused_data:
            raise HttpError(400, f"expected one {self._encoding} stream, got bytes behind its end", close=True)
        return part

    def finish(self) -> None:
        """Look whether the stream was whole.

        Raises:
            HttpError: It was not.
        """
        if self._stream is not None and not self._stream.eof:
            raise HttpError(400, f"expected a whole {self._encoding} stream, got a part of one")


def _declared_bytes(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0
