"""The parser of a connection, which takes no body that is cut into crumbs.

A chunk costs the event loop some 7 us to take apart, however little is in it. A few hundred kilobytes of chunks of one
byte would hold up everybody else for a second, and the limit on a body, which counts what is in the chunks, would not
see it. So there is a limit to the chunks: beyond the first ones they must hold something on average.
"""

from typing import Final

import h11

MAX_HEAD_BYTES: Final = 64 * 2**10  # of a request, and of the line before a chunk
FREE_CHUNKS: Final = 4096  # of a body, however small: about 30 ms
LEAST_CHUNK_BYTES: Final = 64  # on average, of those beyond


class Parser(h11.Connection):
    """See the module docstring.

    Attributes:
        refusal: Why the body was refused; "": it was not.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refusal = ""
        self._num_chunks = self._num_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Give what comes next.

        Raises:
            RemoteProtocolError: It is not HTTP, or the chunks are too small.
        """
        event = super().next_event()
        kind = type(event)
        if kind is h11.Data:
            assert isinstance(event, h11.Data)
            self._num_bytes += len(event.data)
            self._num_chunks += event.chunk_end
            if self._num_chunks > FREE_CHUNKS + self._num_bytes // LEAST_CHUNK_BYTES:
                expected = f"expected at most {FREE_CHUNKS} chunks, and one more for every {LEAST_CHUNK_BYTES} bytes"
                self.refusal = f"{expected}, got {self._num_chunks} chunks with {self._num_bytes} bytes"
                raise h11.RemoteProtocolError(self.refusal)
        elif kind is h11.Request:
            self._num_chunks = self._num_bytes = 0
        return event
