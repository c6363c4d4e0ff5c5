"""The TagStream call: Tag for many requests on one stream, without a task for any of them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import Event, Failed, Finished, RunSequence
from service.errors import InternalFailure, InvalidInput, RequestCancelled, ServiceError, ShuttingDown
from service.models import LiveModel, Models
from service.rpc.boundary import Context, deadline_s
from service.rpc.outbox import Outbox, Owed
from service.rpc.session_answers import error_of
from service.rpc.stream import Stream
from service.rpc.tag import fill_response, tag_runs
from service.settings import Settings

log = logging.getLogger(__name__)

EVENT_BYTES = 64  # about what an answer takes, its words not counted
WORD_BYTES = 16  # and what the answer to a word takes


async def tag_stream(
    models: Models, settings: Settings, draining: asyncio.Event, requests: object, context: Context
) -> None:
    """Serve one stream; see the proto for what it promises."""
    outbox = Outbox(settings.max_requests_in_flight_per_stream)
    commands = TagCommands(models, draining, outbox, deadline_s(context))
    await Stream(commands, outbox, settings.slow_reader_timeout_s, draining, context).serve()


class TagCommands:
    """Takes the commands of one stream.

    Args:
        models: Those that are served.
        draining: Set once nothing new is admitted.
        outbox: Where the answers go.
        deadline: When the stream's time is up, on the engine's clock.
    """

    has_open = False  # without requests in flight nothing is lost

    def __init__(self, models: Models, draining: asyncio.Event, outbox: Outbox, deadline: float | None) -> None:
        self._models = models
        self._draining = draining
        self._outbox = outbox
        self._deadline_s = deadline

    def take(self, command: pb.TagCommand) -> None:
        """Submit one command, or answer it with an error."""
        request_id, outbox = command.request_id, self._outbox
        try:
            if request_id in outbox.pending or not request_id:
                raise InvalidInput("request_id", "one above 0 that no command in flight has", str(request_id))
            if self._draining.is_set():
                raise ShuttingDown("the service is shutting down and admits nothing new")
            model, runs = tag_runs(self._models, command.request, self._deadline_s)
            pending = PendingTag(outbox, request_id, model, runs)
            pending.submit(runs)
            outbox.take(pending)
        except ServiceError as error:
            outbox.tell(_failure(request_id, error))

    def abandon(self, unanswered: Sequence[Owed]) -> None:
        """Stop what nobody waits for."""
        for pending in unanswered:
            pending.cancel()


class PendingTag:
    """A request that is not answered yet; the sink of the events of its runs.

    Args:
        outbox: Of the stream that it came on.
        request_id: The caller's number for it.
        model: Who answers.
        runs: A run for each of its sequences.
    """

    __slots__ = ("_answers", "_model", "_num_left", "_outbox", "_works", "request_id", "reserved_bytes")

    def __init__(self, outbox: Outbox, request_id: int, model: LiveModel, runs: Sequence[RunSequence]) -> None:
        self._outbox = outbox
        self._model = model
        self._works = [run.id for run in runs]
        self._answers: list[Any] = [None] * len(runs)
        self._num_left = len(runs)
        self.request_id = request_id
        self.reserved_bytes = EVENT_BYTES + WORD_BYTES * sum(run.length for run in runs)

    def submit(self, runs: Sequence[RunSequence]) -> None:
        """Submit all runs or none.

        Raises:
            Overloaded, ShuttingDown: They were not admitted.
        """
        submit = self._model.bridge.submit
        try:
            for run in runs:
                submit(run, self)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop the runs that are still going on."""
        for work in self._works:
            self._model.bridge.cancel(work)

    def take(self, event: Event) -> None:
        """Take the end of one run; the last one, or the first that fails, ends the request."""
        if type(event) is Finished:
            self._answers[self._works.index(event.request)] = event.value
            self._num_left -= 1
            if self._num_left or self._outbox.closed:
                return
            try:
                payload = _answer(self.request_id, self._model, self._answers)
            except Exception:  # a caller must not wait for ever because of our mistake
                log.exception("an answer could not be made")
                payload = _failure(self.request_id, InternalFailure("see the log"))
        else:
            self.cancel()
            error = event.error if type(event) is Failed else RequestCancelled("the request was cancelled")
            payload = _failure(self.request_id, error)
        self._outbox.answer(self, payload)


def _answer(request_id: int, model: LiveModel, answers: Sequence[object]) -> bytes:
    response = pb.TagStreamResponse()
    event = response.events.add()
    event.request_id = request_id
    fill_response(event.response, model, answers)
    return response.SerializeToString()


def _failure(request_id: int, error: ServiceError) -> bytes:
    return pb.TagStreamResponse(events=[pb.TagEvent(request_id=request_id, error=error_of(error))]).SerializeToString()
