"""The requests of one ModelStreamInfer stream, and the order in which they are answered.

Requests of one sequence are answered in their order, whether they went well or were refused, and those of different
sequences do not wait for each other. Of requests outside any sequence only those without an id keep their order: it is
all that tells their answers apart.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Hashable, Sequence

from protos.inference import grpc_service_pb2 as pb
from service.errors import InternalFailure, ServiceError
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.failures import to_oip
from service.oip.held import held_bytes
from service.oip.messages import InferResponse
from service.rpc.oip.caller import InferenceCaller
from service.rpc.oip.infer import read_known
from service.rpc.oip.tensors import Places, fill_response
from service.rpc.outbox import Outbox, Owed

log = logging.getLogger(__name__)

ANSWER_BYTES = 256  # about what an answer takes, before its size is known
FINAL = "triton_final_response"  # every answer here is the last one to its request


class Fatal(bytes):
    """In place of an answer: the error that the stream is to end with."""

    error: OipError


class InferCommands:
    """Takes the requests of one stream.

    Args:
        core: What answers.
        caller: Whose stream it is.
        outbox: Where the answers go.
        ends_with_error: Whether the first error ends the stream with its status.
    """

    def __init__(self, core: Core, caller: InferenceCaller, outbox: Outbox, *, ends_with_error: bool) -> None:
        self._core = core
        self._caller = caller
        self._outbox = outbox
        self._ends_with_error = ends_with_error
        self._numbers = itertools.count(1)
        self._lanes: dict[Hashable, deque[PendingInfer]] = {}  # in flight, of each order that is kept

    @property
    def has_open(self) -> bool:
        """Whether sequences are going on: while the service drains they are still served, on whatever stream."""
        return self._core.num_sequences > 0

    def take(self, message: pb.ModelInferRequest) -> None:
        """Submit one request, or answer it with an error."""
        pending = PendingInfer(self, next(self._numbers), message.id, _lane(message))
        future, refused = None, b""
        try:
            request, pending.places = read_known(self._core, message, self._caller)
            pending.reserved_bytes += held_bytes(request.inputs)
            pending.future = future = self._core.begin(request)
        except OipError as error:
            refused = self.failure(pending, error)
        except ServiceError as error:
            refused = self.failure(pending, to_oip(error, message.id))
        except Exception:
            log.exception("a request could not be taken")
            refused = self.failure(pending, to_oip(InternalFailure("see the log")))
        self._outbox.take(pending)
        if pending.lane is not None:
            self._lanes.setdefault(pending.lane, deque()).append(pending)
        if future is None:
            self.settle(pending, refused)
        else:
            future.add_done_callback(pending.done)

    def abandon(self, unanswered: Sequence[Owed]) -> None:
        """Stop what nobody waits for."""
        self._lanes.clear()
        for pending in unanswered:
            pending.cancel()

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self._outbox.closed

    def settle(self, pending: "PendingInfer", payload: bytes) -> None:
        """Send an answer once those before it have gone."""
        answer = self._outbox.answer
        lane = None if pending.lane is None else self._lanes.get(pending.lane)
        if lane is None:
            answer(pending, payload)
            return
        pending.payload = payload
        while lane and lane[0].payload is not None:
            first = lane.popleft()
            assert first.payload is not None
            answer(first, first.payload)
        if not lane:
            del self._lanes[pending.lane]

    def failure(self, pending: "PendingInfer", error: OipError) -> bytes:
        """Make the answer to a request that failed."""
        if self._ends_with_error:
            fatal = Fatal()
            fatal.error = error
            return fatal
        message = pb.ModelStreamInferResponse(error_message=error.message or error.code)
        message.infer_response.id = pending.id
        message.infer_response.parameters[FINAL].bool_param = True
        return message.SerializeToString()


class PendingInfer:
    """A request that is not answered yet.

    Attributes:
        request_id: Its number on the stream.
        reserved_bytes: What it holds: its inputs, and about the size of its answer.
        id: The caller's name for it.
        lane: With what it keeps its order; None: with nothing.
        places: Where outputs go.
        future: Its answer; None where it never got as far.
        payload: The answer, as sent, once it is known.
    """

    __slots__ = ("_commands", "future", "id", "lane", "payload", "places", "request_id", "reserved_bytes")

    def __init__(self, commands: InferCommands, request_id: int, name: str, lane: Hashable | None) -> None:
        self._commands = commands
        self.request_id = request_id
        self.reserved_bytes = ANSWER_BYTES
        self.id = name
        self.lane = lane
        self.places: Places = {}
        self.future: asyncio.Future[InferResponse] | None = None
        self.payload: bytes | None = None

    def cancel(self) -> None:
        """Stop the work on it, if there is any."""
        if self.future is not None:
            self.future.cancel()

    def done(self, future: asyncio.Future[InferResponse]) -> None:
        """Take its end."""
        commands = self._commands
        if commands.closed:
            if not future.cancelled():
                future.exception()  # which nobody wants to know any more
            return
        try:
            message = pb.ModelStreamInferResponse()
            fill_response(message.infer_response, future.result(), self.places)
            message.infer_response.parameters[FINAL].bool_param = True
            payload = message.SerializeToString()
        except OipError as error:
            payload = commands.failure(self, error)
        except asyncio.CancelledError:
            payload = commands.failure(self, OipError("cancelled", "the request was cancelled"))
        except Exception:  # a caller must not wait for ever because of our mistake
            log.exception("an answer could not be made")
            payload = commands.failure(self, to_oip(InternalFailure("see the log")))
        commands.settle(self, payload)


def _lane(message: pb.ModelInferRequest) -> Hashable | None:
    """With which other requests one keeps its order: those of its sequence, or those that have no id either."""
    field = message.parameters.get("sequence_id")
    sequence_id = None if field is None else field.int64_param or field.string_param
    if sequence_id:
        return message.model_name, sequence_id
    return None if message.id else ""
