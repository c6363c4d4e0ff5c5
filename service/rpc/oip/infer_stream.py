"""ModelStreamInfer: any number of requests on one stream, without a task for any of them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.rpc.boundary import Context
from service.rpc.oip.caller import InferenceCaller, wants_status
from service.rpc.oip.infer_commands import Fatal, InferCommands
from service.rpc.outbox import Outbox
from service.rpc.stream import Stream
from service.settings import Settings


async def model_stream_infer(
    core: Core, regions: Regions, settings: Settings, draining: asyncio.Event, requests: object, context: Context
) -> None:
    """Serve one stream; see the proto for what it promises."""
    outbox = Outbox(settings.max_requests_in_flight_per_stream)
    commands = InferCommands(core, InferenceCaller(context, regions), outbox, ends_with_error=wants_status(context))
    patience_s, quiet_s = settings.slow_reader_timeout_s, settings.drain_idle_s
    await InferStream(commands, outbox, patience_s, draining, context, quiet_s).serve()


class InferStream(Stream):
    """A stream whose messages are requests and answers themselves: neither are put together."""

    def _commands_of(self, message: Any) -> Sequence[Any]:
        return (message,)

    def _next_message(self) -> tuple[bytes, int, int]:
        """The next answer, which is a message.

        Raises:
            OipError: It is the one that the stream is to end with.
        """
        payload = self._outbox.first()
        if type(payload) is Fatal:
            raise payload.error
        return payload, 1, len(payload)
