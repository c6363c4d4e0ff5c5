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

    async def _send(self, payloads: Sequence[bytes]) -> None:
        """Send answers, each as a message.

        Raises:
            OipError: The one that the stream is to end with is among them.
        """
        write, time = self._context.write, self._loop.time
        for payload in payloads:
            if type(payload) is Fatal:
                raise payload.error
            self._writing_since_s = time()
            await write(payload)
