"""The Session call: one stream, many sessions, many commands in flight."""

import asyncio
from collections.abc import Iterable
from typing import cast

from service.models import Models
from service.rpc.boundary import Context, deadline_s
from service.rpc.callers import Callers
from service.rpc.outbox import Outbox
from service.rpc.session_commands import SessionCommands
from service.rpc.stream import Stream
from service.settings import Settings


async def session(
    models: Models, settings: Settings, callers: Callers, draining: asyncio.Event, requests: object, context: Context
) -> None:
    """Serve one stream; see the proto for what it promises."""
    caller = callers.enter(cast(Iterable[tuple[str, str | bytes]], context.invocation_metadata() or ()))
    try:
        outbox = Outbox(settings.max_requests_in_flight_per_stream)
        commands = SessionCommands(models, settings, caller, draining, outbox, deadline_s(context))
        patience_s, quiet_s = settings.slow_reader_timeout_s, settings.drain_idle_s
        await Stream(commands, outbox, patience_s, draining, context, quiet_s).serve()
    finally:
        callers.leave(caller)
