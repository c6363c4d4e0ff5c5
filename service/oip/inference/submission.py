"""How requests become work of an engine: checked, put into their sequence, and submitted."""

import asyncio
import logging
import time

from service.bridge import next_id
from service.engine.interface import ExportSession, OpenSession
from service.errors import Overloaded, ServiceError, ShuttingDown
from service.oip.directory import Directory, not_ready, version_number
from service.oip.errors import OipError
from service.oip.faces.face import Prepared
from service.oip.failures import STOPPING, start_missing, to_oip
from service.oip.held import held_bytes
from service.oip.inference.answer import Answer, OpeningSink, StateSink
from service.oip.inference.options import Options, read_options
from service.oip.inference.sequences import Key, Sequence, Sequences
from service.oip.messages import InferRequest
from service.oip.served import Served

log = logging.getLogger(__name__)

BETWEEN_WARNINGS_S = 1.0
RETRY_AFTER_S = 0.1  # a hint for who finds too many bytes in flight


class Inference:
    """See the module docstring.

    Args:
        directory: Finds models.
        sequences: Of all callers.
        sequence_idle_timeout_s: Seconds without a request after which a sequence is ended.
        max_input_bytes: Most bytes of inputs of unanswered requests.

    Attributes:
        is_draining: Whether nothing new is taken; sequences that have begun may go on.
    """

    def __init__(
        self, directory: Directory, sequences: Sequences, sequence_idle_timeout_s: float, max_input_bytes: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._traffic = directory.traffic
        self._sequences = sequences
        self._idle_timeout_s = sequence_idle_timeout_s
        self._max_input_bytes = max_input_bytes
        self._silent_until_s = 0.0
        self._num_unsaid = 0  # restarts that were not warned of since the last one that was
        self.is_draining = False

    def begin(self, request: InferRequest) -> Answer:
        """Check a request and submit it; see `Core.begin`."""
        options = read_options(request.parameters)
        key = sequence = None
        if options.sequence_id:
            key = Key(request.caller, request.model_name, options.sequence_id)
            sequence = self._sequences.find(key)
        if sequence is not None and sequence.is_open and not options.start:
            served = sequence.served
            if request.model_version and version_number(request.model_version) not in sequence.versions:
                served.statistics.failed(0)
                self._directory.find(request.model_name, request.model_version)
                raise start_missing(request.model_name, options.sequence_id)
        else:
            served = self._directory.find(request.model_name, request.model_version)
        try:
            prepared = served.face.prepare(request, options.start)
            num_bytes = self._count_bytes(request)
            if not served.face.is_stateful:
                return self._run(request, options, served, prepared, num_bytes)
            if key is None:
                raise OipError(
                    "invalid_argument",
                    f"inference request to model '{served.name}' must specify a non-zero or non-empty correlation ID",
                )
            if options.start:
                return self._start(request, options, key, served, prepared, num_bytes)
            if sequence is None or not sequence.is_open:
                raise start_missing(served.name, options.sequence_id)
            return self._step(request, options, sequence, prepared, num_bytes)
        except OipError:
            served.statistics.failed(0)
            raise
        except ServiceError as error:
            served.statistics.failed(0)
            if sequence is not None and sequence.pending and not options.start:
                sequence.close()  # its caller sends ahead: the next step may be on its way, and would follow a gap
            if isinstance(error, ShuttingDown) and not self.is_draining:  # that version has gone
                raise not_ready(served.name, served.version) from None
            raise to_oip(error, request.id) from None

    def _run(
        self, request: InferRequest, options: Options, served: Served, prepared: Prepared, num_bytes: int
    ) -> Answer:
        if self.is_draining:
            raise OipError("unavailable", STOPPING)
        work = next_id()
        answer = Answer(self._loop, request, served, prepared, work, num_bytes)
        served.bridge.submit(prepared.run(work, options.priority, request.deadline_s), answer)
        answer.submitted(options.timeout_s)
        return answer

    def _start(
        self, request: InferRequest, options: Options, key: Key, served: Served, prepared: Prepared, num_bytes: int
    ) -> Answer:
        if self.is_draining:
            raise OipError("unavailable", STOPPING)
        older = self._sequences.find(key)
        if older is not None and older.is_open:
            self._warn_of_restart(key)
            older.close()
        sequence = Sequence(key, served, self._sequences)
        work = next_id()
        answer = Answer(self._loop, request, served, prepared, work, num_bytes, sequence)
        opening = OpenSession(
            next_id(),
            sequence.session,
            prepared.initial,
            idle_timeout_s=self._idle_timeout_s,
            priority=options.priority,
        )
        served.bridge.watch_session(sequence.session, sequence)
        try:
            served.bridge.submit(opening, OpeningSink(answer))
            served.bridge.submit(prepared.step(work, sequence.session, request.deadline_s), answer)
        except ServiceError:
            sequence.close()
            raise
        if older is not None:
            sequence.follow(older)
        self._sequences.put(sequence)
        self._submitted(answer, options, sequence, prepared)
        return answer

    def _step(
        self, request: InferRequest, options: Options, sequence: Sequence, prepared: Prepared, num_bytes: int
    ) -> Answer:
        served = sequence.served
        work = next_id()
        answer = Answer(self._loop, request, served, prepared, work, num_bytes, sequence)
        try:
            served.bridge.submit(prepared.step(work, sequence.session, request.deadline_s), answer)
        except ShuttingDown:
            sequence.lost()
            raise
        self._submitted(answer, options, sequence, prepared)
        return answer

    def _submitted(self, answer: Answer, options: Options, sequence: Sequence, prepared: Prepared) -> None:
        answer.submitted(options.timeout_s)
        sequence.pending.append(answer)
        if prepared.needs_state:
            export = next_id()
            answer.expect_export(export)
            try:
                sequence.served.bridge.submit(ExportSession(export, sequence.session), StateSink(answer))
            except ServiceError as error:
                answer.part_failed(error)
        if options.end:
            sequence.close()

    def _warn_of_restart(self, key: Key) -> None:
        """Log that a sequence was started again before its end; a client that always does that is told of seldom."""
        now_s = time.monotonic()
        if now_s < self._silent_until_s:
            self._num_unsaid += 1
            return
        message = "sequence %r of model %s is started again before its end (and %d since this was last said)"
        log.warning(message, key.sequence_id, key.model, self._num_unsaid)
        self._num_unsaid = 0
        self._silent_until_s = now_s + BETWEEN_WARNINGS_S

    def _count_bytes(self, request: InferRequest) -> int:
        """Bytes of the inputs of a request.

        Raises:
            Overloaded: With those in flight they would be too many.
        """
        num_bytes = held_bytes(request.inputs)
        if self._traffic.num_bytes + num_bytes > self._max_input_bytes:
            raise Overloaded(f"{self._max_input_bytes} bytes of inputs are unanswered", RETRY_AFTER_S)
        return num_bytes
