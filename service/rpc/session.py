"""The Session call: one stream, many sessions, many requests in flight.

Three parts run side by side for each stream. The reader takes requests and submits them; the engines' events turn into
answers; the writer sends them. Answers of one session keep the order of its requests, so a refusal, though known at
once, waits behind what is in flight. A request counts as in flight until its answer has been handed to gRPC, and with
too many in flight the stream is read no further: a caller that does not read its answers is stopped by flow control and
costs nobody memory.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import (
    CloseSession,
    Event,
    Failed,
    Finished,
    OpenSession,
    Request,
    StepOutputs,
    StepSession,
)
from service.errors import (
    InternalFailure,
    InvalidInput,
    RequestCancelled,
    ServiceError,
    ShuttingDown,
    StepMismatch,
)
from service.rpc.boundary import Context, Malformed, deadline_s
from service.rpc.bridge import next_id
from service.rpc.models import Models
from service.rpc.session_table import LiveSession, SessionTable, Unanswered
from service.rpc.status import describe
from service.rpc.step import answer_step, step_inputs
from service.settings import Settings

log = logging.getLogger(__name__)

Answer = Callable[[object], pb.SessionResponse]


async def session(
    models: Models, settings: Settings, draining: asyncio.Event, requests: object, context: Context
) -> None:
    """Serve one stream; see the proto for what it promises."""
    stream = SessionStream(models, settings, draining, context)
    parts = [asyncio.create_task(part) for part in (stream.read(), stream.write(), stream.watch_for_drain())]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
        if parts[0] in done:  # the caller has sent all: what is in flight is still answered
            stream.finish_writing()
            await parts[1]
    finally:
        for part in parts:
            part.cancel()
        stream.abandon()
        await asyncio.gather(*parts, return_exceptions=True)


class SessionStream:
    """The state of one stream. Everything runs on the event loop.

    Args:
        models: What can be opened.
        settings: Its limits.
        draining: Set once the service admits nothing new.
        context: gRPC's stream.
    """

    def __init__(self, models: Models, settings: Settings, draining: asyncio.Event, context: Context) -> None:
        self._models = models
        self._context = context
        self._draining = draining
        self._deadline_s = deadline_s(context)
        self._max_in_flight = settings.max_requests_in_flight_per_stream
        self._wake = asyncio.Event()  # for the writer: an answer came, or the end, or there may be nothing left
        self._sessions = SessionTable(settings.session_idle_timeout_s, on_expired=self._wake.set)
        self._unanswered: dict[Unanswered, None] = {}  # the oldest first
        self._ids: dict[int, Unanswered] = {}  # who has a request id
        self._answers: deque[pb.SessionResponse] = deque()
        self._room = asyncio.Event()  # for the reader: an answer has gone
        self._quiet = asyncio.Event()  # while draining: nothing is open or in flight
        self._read_all = False

    # ------------------------------------------------------------------------------------------------- the three parts

    async def read(self) -> None:
        """Take requests until the caller half-closes.

        Raises:
            InvalidInput: Bytes came that are no message: there is no request id to answer to, so the stream ends.
        """
        while True:
            while len(self._unanswered) + len(self._answers) >= self._max_in_flight:
                self._room.clear()
                await self._room.wait()
            request: Any = await self._context.read()
            if request is grpc.aio.EOF:
                return
            if isinstance(request, Malformed):
                raise request.error()
            self._take(request)

    async def write(self) -> None:
        """Send answers as they come, until all requests have been answered and no more can come."""
        while True:
            while self._answers:
                await self._context.write(self._answers[0])
                self._answers.popleft()
                self._room.set()
            if self._read_all and not self._unanswered:
                return
            self._check_quiet()
            self._wake.clear()
            await self._wake.wait()

    async def watch_for_drain(self) -> None:
        """End a stream that has nothing open once the service is shutting down.

        Raises:
            ShuttingDown: Always, when it is time.
        """
        await self._draining.wait()
        self._check_quiet()
        await self._quiet.wait()
        raise ShuttingDown("the service is shutting down and this stream has no open session")

    def finish_writing(self) -> None:
        """Let the writer end with the last answer."""
        self._read_all = True
        self._wake.set()

    def abandon(self) -> None:
        """Cancel what runs and close what is open; after an orderly end nothing runs."""
        for entry in self._unanswered:
            if entry.work is not None:
                bridge, request = entry.work
                bridge.cancel(request)
        self._unanswered.clear()
        self._sessions.close_all()

    def _check_quiet(self) -> None:
        if self._draining.is_set() and not (self._unanswered or self._answers or len(self._sessions)):
            self._quiet.set()

    # ---------------------------------------------------------------------------------------------------- the requests

    def _take(self, request: pb.SessionRequest) -> None:
        """Submit one request, or answer it with an error."""
        entry, action = Unanswered(request.request_id), request.WhichOneof("action")
        named = "" if action in (None, "open") else getattr(request, action).session_id
        live = self._sessions.named(named)
        self._unanswered[entry] = None
        try:
            if self._ids.setdefault(entry.request_id, entry) is not entry:
                raise InvalidInput("request_id", "one that no request in flight has", str(entry.request_id))
            if action == "step":
                self._step(entry, request.step)
            elif action == "open":
                self._open(entry, request.open)
            elif action == "close":
                self._close(entry, request.close)
            else:
                raise InvalidInput("action", "one of open, step, close", "none")
        except ServiceError as error:
            if live is not None:
                live.unanswered.append(entry)
            self._answer(entry, live, _failure(entry.request_id, named, error))

    def _open(self, entry: Unanswered, request: pb.OpenSession) -> None:
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down and opens no session")
        model = self._models.find(request.model, "open.model")
        if not model.supports_sessions:
            raise InvalidInput("open.model", "a model that can be stepped", f"{request.model.name!r}, which cannot")
        live = LiveSession(next_id(), model)
        # In the table at once, so that the end of the stream closes it even where the answer never arrives.
        self._sessions.add(live)
        opened = pb.SessionOpened(session_id=live.name, model=model.ref)

        def answer(value: object) -> pb.SessionResponse:
            live.opened = True
            return pb.SessionResponse(request_id=entry.request_id, opened=opened)

        try:
            self._submit(entry, live, OpenSession(next_id(), live.id, deadline_s=self._deadline_s), answer)
        except ServiceError:
            self._sessions.forget(live)
            raise

    def _step(self, entry: Unanswered, request: pb.StepSession) -> None:
        live = self._sessions.find(request.session_id, "step.session_id")
        if request.HasField("first_step") and request.first_step != live.num_steps:
            raise StepMismatch("step.first_step", live.num_steps, request.first_step)
        inputs, num_steps = step_inputs(live.model, request)
        work = StepSession(next_id(), live.id, inputs, num_steps, request.num_top, deadline_s=self._deadline_s)
        with_tokens = request.with_tokens

        def answer(value: object) -> pb.SessionResponse:
            assert isinstance(value, StepOutputs)
            stepped = answer_step(live, value, with_tokens)
            return pb.SessionResponse(request_id=entry.request_id, stepped=stepped)

        self._submit(entry, live, work, answer)
        # Known already: a step that was admitted and is not taken ends the session.
        live.num_steps += num_steps

    def _close(self, entry: Unanswered, request: pb.CloseSession) -> None:
        live = self._sessions.find(request.session_id, "close.session_id")

        def answer(value: object) -> pb.SessionResponse:
            assert isinstance(value, int)
            closed = pb.SessionClosed(session_id=live.name, num_steps=value)
            return pb.SessionResponse(request_id=entry.request_id, closed=closed)

        self._submit(entry, live, CloseSession(next_id(), live.id), answer)
        self._sessions.closed(live)

    # ----------------------------------------------------------------------------------------------------- the answers

    def _submit(self, entry: Unanswered, live: LiveSession, request: Request, answer: Answer) -> None:
        bridge = live.model.bridge
        bridge.submit(request, partial(self._ended, entry, live, answer))
        entry.work = (bridge, request.id)
        live.unanswered.append(entry)

    def _ended(self, entry: Unanswered, live: LiveSession, answer: Answer, event: Event) -> None:
        """Take the one event that ends a request."""
        entry.work = None
        self._sessions.touch(live)
        error: ServiceError = RequestCancelled("the request was cancelled")
        if isinstance(event, Finished):
            try:
                response = answer(event.value)
            except Exception:  # a caller must not wait for ever because of our mistake
                log.exception("an answer could not be made")
                error = InternalFailure("see the log")
            else:
                self._answer(entry, live, response)
                return
        elif isinstance(event, Failed):
            error = event.error
        if live.opened:  # how far it got is not known
            self._sessions.broke(live)
            response = _failure(entry.request_id, live.name, error, session_ended=True)
        else:  # the open itself failed: the engine keeps nothing of it
            self._sessions.forget(live)
            response = _failure(entry.request_id, "", error)
        self._answer(entry, live, response)

    def _answer(self, entry: Unanswered, live: LiveSession | None, response: pb.SessionResponse) -> None:
        """Hand an answer to the writer once those before it of the same session have gone."""
        entry.response = response
        if live is None:
            self._send(entry, response)
            return
        while live.unanswered and (known := live.unanswered[0].response) is not None:
            self._send(live.unanswered.popleft(), known)

    def _send(self, entry: Unanswered, response: pb.SessionResponse) -> None:
        self._unanswered.pop(entry, None)
        if self._ids.get(entry.request_id) is entry:  # and not the one that it was mistaken for
            del self._ids[entry.request_id]
        self._answers.append(response)
        self._wake.set()


def _failure(
    request_id: int, session_id: str, error: ServiceError, *, session_ended: bool = False
) -> pb.SessionResponse:
    status = describe(error)
    failure = pb.SessionError(
        code=status.code.value[0],
        reason=status.reason,
        message=f"{status.message}; the session has ended" if session_ended else status.message,
        retry_after_s=status.retry_after_s,
        session_id=session_id,
        violations=status.violations,
        session_ended=session_ended,
    )
    return pb.SessionResponse(request_id=request_id, error=failure)
