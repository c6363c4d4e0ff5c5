"""gRPC's inside, all that is used of it.

grpc.server and grpc.aio.server are made of these, and both cost more a message than a step of a small model: the first
a thread a stream, the second two wakings and two futures. They are no public interface, so that a release of grpcio may
take them away: what is missing is named in `MISSING`, and `loop.loop_factory` then falls back on grpc.aio.
See docs/adr/0012.
"""

import contextlib
import importlib
from typing import Any, Final

MISSING: Final[list[str]] = []
_cygrpc: Any = None
with contextlib.suppress(ImportError):
    _cygrpc = importlib.import_module("grpc._cython.cygrpc")


def _of(name: str) -> Any:
    found = getattr(_cygrpc, name, None)
    if found is None:
        MISSING.append(name)
    return found


CompletionQueue: Final = _of("CompletionQueue")
Server: Final = _of("Server")
ReceiveCloseOnServer: Final = _of("ReceiveCloseOnServerOperation")
ReceiveMessage: Final = _of("ReceiveMessageOperation")
SendInitialMetadata: Final = _of("SendInitialMetadataOperation")
SendMessage: Final = _of("SendMessageOperation")
SendStatus: Final = _of("SendStatusFromServerOperation")
TIMEOUT: Final = getattr(_of("CompletionType"), "queue_timeout", None)
SHUTDOWN: Final = getattr(_of("CompletionType"), "queue_shutdown", None)
NO_FLAGS: Final = 0


def nobody_waits(event: Any) -> None:
    """Take the event of something whose end is of no interest; every operation has somebody who is told of it."""
