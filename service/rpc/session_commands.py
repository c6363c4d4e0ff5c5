"""What the commands of a Session stream do: each is checked, turned into a request to the engine, and put in its place.

A step is what counts: it makes two small objects, a StepSession for the engine and a Pending for its answer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import next_id
from service.engine.interface import (
    AnyRequest,
    CloseSession,
    ExportSession,
    ForkSession,
    MarkSession,
    OpenSession,
    RewindSession,
    StepSession,
)
from service.errors import InvalidInput, ServiceError, ShuttingDown
from service.models import Models
from service.rpc import session_answers as answers
from service.rpc.bounds import priority
from service.rpc.callers import Caller, End, LiveSession
from service.rpc.outbox import Outbox, Owed
from service.rpc.pending import Closing, Pending
from service.rpc.portable import MAX_HEADER_BYTES
from service.rpc.session_list import SESSION_BYTES, Page, listed
from service.rpc.session_state import find_start
from service.rpc.status import shorten
from service.rpc.step import step_inputs
from service.settings import Settings

_new = tuple.__new__

SHORTEST_IDLE_S = 0.001


class SessionCommands:
    """Takes the commands of one stream.

    Args:
        models: What can be opened.
        settings: Limits.
        caller: Whose stream it is.
        draining: Set once nothing may be opened any more.
        outbox: Where the answers go.
        deadline_s: When the stream's time is up, on the engine's clock.
    """

    def __init__(
        self,
        models: Models,
        settings: Settings,
        caller: Caller,
        draining: asyncio.Event,
        outbox: Outbox,
        deadline_s: float | None,
    ) -> None:
        self._models = models
        self._max_idle_s = settings.session_idle_timeout_s
        self._caller = caller
        self._sessions = caller.sessions
        self._draining = draining
        self._outbox = outbox
        self._deadline_s = deadline_s
        self._others: Mapping[str, Callable[[int, pb.SessionCommand], None]] = {
            "open": self._open,
            "close": self._close,
            "fork": self._fork,
            "mark": self._mark,
            "rewind": self._rewind,
            "export": self._export,
            "list": self._list,
        }

    @property
    def has_open(self) -> bool:
        """Whether there are sessions, which other streams of the caller may close."""
        return bool(self._sessions)

    def abandon(self, unanswered: Sequence[Owed]) -> None:
        """Stop what nobody waits for. Steps of sessions that outlive the stream go on: their answers are kept."""
        if not self._caller.durable:
            for pending in unanswered:
                pending.cancel()

    def take(self, command: pb.SessionCommand) -> None:
        """Submit one command, or answer it with an error."""
        request_id, action = command.request_id, command.WhichOneof("action")
        try:
            if request_id in self._outbox.pending or not request_id:
                raise InvalidInput("request_id", "one above 0 that no command in flight has", str(request_id))
            if action == "step":
                self._step(request_id, command.step)
            elif action is not None:
                self._others[action](request_id, command)
            else:
                raise InvalidInput("action", f"one of step, {', '.join(self._others)}", "none")
        except ServiceError as error:
            self._refuse(command, action, error)

    def _step(self, request_id: int, step: pb.StepSession) -> None:
        name = step.session_id
        live = self._sessions.get(name)
        if live is None:
            live = self._caller.find(name, "step.session_id")
        model, outbox, num_top = live.model, self._outbox, step.num_top
        inputs, num_steps = step_inputs(model, step, num_top)
        first_step: int | None = step.first_step or (0 if step.HasField("first_step") else None)
        encode = answers.stepped_with_tokens if step.with_tokens else answers.stepped
        reserved_bytes = answers.EVENT_BYTES + num_steps * num_top * answers.OUTPUT_BYTES
        pending = Pending(outbox, request_id, live, encode, reserved_bytes)
        pending.work = work = next_id()
        # As StepSession(...) would, without its keyword handling, which is half of the time.
        request = _new(StepSession, (work, live.id, inputs, num_steps, num_top, first_step, self._deadline_s))
        model.bridge.submit(request, pending)
        live.outbox = outbox
        pending.enqueue()
        outbox.take(pending)

    def _open(self, request_id: int, command: pb.SessionCommand) -> None:
        request = command.open
        self._refuse_while_draining()
        model, initial, num_steps = find_start(self._models, request)
        chosen = priority("open.priority", request.priority)
        idle_s = self._idle_timeout_s(request)
        live = self._caller.add(request.session_id, "open.session_id", model, idle_s, self._outbox)
        pending = Pending(
            self._outbox, request_id, live, answers.opened, answers.EVENT_BYTES, request.session_id, opens=live
        )
        work = OpenSession(next_id(), live.id, initial, num_steps, idle_s, priority=chosen, deadline_s=self._deadline_s)
        self._submit_opening(pending, live, work)

    def _fork(self, request_id: int, command: pb.SessionCommand) -> None:
        request = command.fork
        self._refuse_while_draining()
        source = self._caller.find(request.session_id, "fork.session_id")
        live = self._caller.add(
            request.new_session_id, "fork.new_session_id", source.model, source.idle_timeout_s, self._outbox
        )
        pending = Pending(self._outbox, request_id, source, answers.opened, answers.EVENT_BYTES, opens=live)
        work = ForkSession(
            next_id(), source.id, live.id, idle_timeout_s=source.idle_timeout_s, deadline_s=self._deadline_s
        )
        self._submit_opening(pending, live, work)
        live.queue = [pending]  # its own answers come after this one

    def _close(self, request_id: int, command: pb.SessionCommand) -> None:
        live = self._caller.find(command.close.session_id, "close.session_id")
        pending = Closing(self._outbox, request_id, live, answers.closed, answers.EVENT_BYTES)
        self._submit(pending, live, CloseSession(next_id(), live.id))
        self._caller.forget(live, End.CLOSED)

    def _mark(self, request_id: int, command: pb.SessionCommand) -> None:
        request = command.mark
        live = self._caller.find(request.session_id, "mark.session_id")
        pending = Pending(self._outbox, request_id, live, answers.marked, answers.EVENT_BYTES, request.mark)
        self._submit(pending, live, MarkSession(next_id(), live.id, request.mark, deadline_s=self._deadline_s))

    def _rewind(self, request_id: int, command: pb.SessionCommand) -> None:
        request = command.rewind
        live = self._caller.find(request.session_id, "rewind.session_id")
        pending = Pending(self._outbox, request_id, live, answers.rewound, answers.EVENT_BYTES, request.mark)
        self._submit(pending, live, RewindSession(next_id(), live.id, request.mark, deadline_s=self._deadline_s))

    def _export(self, request_id: int, command: pb.SessionCommand) -> None:
        live = self._caller.find(command.export.session_id, "export.session_id")
        size = live.model.state_bytes + MAX_HEADER_BYTES
        pending = Pending(self._outbox, request_id, live, answers.exported, size)
        self._submit(pending, live, ExportSession(next_id(), live.id, deadline_s=self._deadline_s))

    def _list(self, request_id: int, command: pb.SessionCommand) -> None:
        page = Page(self._caller, command.list)
        size = answers.EVENT_BYTES + SESSION_BYTES * len(page.sessions)
        pending = Pending(self._outbox, request_id, None, listed, size, page)
        self._outbox.take(pending)
        try:
            page.describe(pending)
        except ServiceError:
            self._outbox.untake(pending)
            raise

    def _submit(self, pending: Pending, live: LiveSession, request: AnyRequest) -> None:
        pending.work = request.id
        live.model.bridge.submit(request, pending)
        live.outbox = self._outbox
        pending.enqueue()
        self._outbox.take(pending)

    def _submit_opening(self, pending: Pending, live: LiveSession, request: AnyRequest) -> None:
        try:
            self._submit(pending, live, request)
        except ServiceError:
            self._caller.forget(live, None)
            live.model.bridge.unwatch_session(live.id)
            raise

    def _refuse(self, command: pb.SessionCommand, action: str | None, error: ServiceError) -> None:
        """Answer with an error, behind what is in flight of the same session."""
        name = "" if action in (None, "list") else getattr(command, action).session_id
        live = None if action == "open" else self._caller.named(name)
        pending = Pending(self._outbox, command.request_id, live, answers.stepped)
        self._outbox.in_flight += 1
        pending.enqueue()
        pending.answer(answers.failure(command.request_id, shorten(name), error))

    def _refuse_while_draining(self) -> None:
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down and opens no session")

    def _idle_timeout_s(self, request: pb.OpenSession) -> float:
        if not request.HasField("idle_timeout_s"):
            return self._max_idle_s
        if not SHORTEST_IDLE_S <= request.idle_timeout_s <= self._max_idle_s:  # NaN fails every comparison
            expected = f"{SHORTEST_IDLE_S} to {self._max_idle_s:g} s"
            raise InvalidInput("open.idle_timeout_s", expected, f"{request.idle_timeout_s:g}")
        return request.idle_timeout_s
