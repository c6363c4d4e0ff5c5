"""The Open Inference Protocol without a wire: what gRPC and HTTP both call.

Everything here runs on the event loop. `begin` checks and submits before it returns, so that requests take effect in
the order in which they were begun. Dicts have the names of the protocol's fields, enumerations as their names.
"""

import asyncio
import logging
import time

from service.bridge import next_id
from service.engine.interface import ExportSession, OpenSession
from service.errors import DeadlineExceeded, ServiceError, ShuttingDown
from service.models import Models
from service.oip.answer import Answer, OpeningSink, StateSink
from service.oip.control import ModelControl
from service.oip.describe import model_config, model_metadata, server_metadata
from service.oip.directory import Directory, not_ready, version_number
from service.oip.errors import OipError
from service.oip.face import Prepared
from service.oip.failures import REQUEST_TIMEOUT, STOPPING, start_missing, to_oip
from service.oip.messages import InferRequest, Parameters
from service.oip.options import Options, read_options
from service.oip.sequences import Key, Sequence, Sequences
from service.oip.served import Served
from service.oip.statistics import NS_PER_S

log = logging.getLogger(__name__)


class Core:
    """See the module docstring.

    Args:
        models: That are served.
        control: Of the repository.
        version: Of this server.
        sequence_idle_timeout_s: Seconds without a request after which a sequence is ended.
        shared_memory: Whether callers may name shared memory: an adapter sees to that, this is for the metadata.
    """

    def __init__(
        self,
        models: Models,
        control: ModelControl,
        *,
        version: str,
        sequence_idle_timeout_s: float,
        shared_memory: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._directory = Directory(models, control)
        self._sequences = Sequences()
        self._version = version
        self._idle_timeout_s = sequence_idle_timeout_s
        self._shared_memory = shared_memory
        self._is_draining = False

    @property
    def is_ready(self) -> bool:
        """Whether new work is taken."""
        return not self._is_draining

    @property
    def num_sequences(self) -> int:
        """Sequences that are open, or have answers to give."""
        return len(self._sequences)

    def is_quiet(self, idle_s: float) -> bool:
        """Whether all requests are answered, and there was none for so many seconds if sequences are open."""
        traffic = self._directory.traffic
        if traffic.num_unanswered:
            return False
        return not len(self._sequences) or time.monotonic_ns() - traffic.last_ns >= idle_s * NS_PER_S

    def drain(self) -> None:
        """Take nothing new from now on; sequences that have begun may go on."""
        self._is_draining = True

    # ------------------------------------------------------------------------------------------------------- inference

    def begin(self, request: InferRequest) -> Answer:
        """Check a request and submit it.

        Returns:
            Its answer, an `asyncio.Future[InferResponse]` that may fail with OipError. Cancelling it stops the work,
            and with it the sequence that it belongs to.

        Raises:
            OipError: It was refused, and changed nothing, but that a START has ended the older sequence of its id.
        """
        options = read_options(request.parameters)
        key = sequence = None
        if options.sequence_id:
            key = Key(request.caller, request.model_name, options.sequence_id)
            sequence = self._sequences.find(key)
        if sequence is not None and sequence.is_open and not options.start:
            served = sequence.served
            if request.model_version and version_number(request.model_version) != served.model.manifest.version:
                self._directory.find(request.model_name, request.model_version)
                raise start_missing(request.model_name, options.sequence_id)
        else:
            served = self._directory.find(request.model_name, request.model_version)
        prepared = served.face.prepare(request, options.start)
        try:
            if not served.face.is_stateful:
                return self._run(request, options, served, prepared)
            if key is None:
                raise OipError(
                    "invalid_argument",
                    f"inference request to model '{served.name}' must specify a non-zero or non-empty correlation ID",
                )
            if options.start:
                return self._start(request, options, key, served, prepared)
            if sequence is None or not sequence.is_open:
                raise start_missing(served.name, options.sequence_id)
            return self._step(request, options, sequence, prepared)
        except ServiceError as error:
            served.statistics.failed(0)
            if isinstance(error, ShuttingDown) and not self._is_draining:  # that version has gone
                raise not_ready(served.name, served.version) from None
            raise to_oip(error, request.id) from None

    def _run(self, request: InferRequest, options: Options, served: Served, prepared: Prepared) -> Answer:
        if self._is_draining:
            raise OipError("unavailable", STOPPING)
        work, (deadline_s, has_timeout) = next_id(), _deadline(request, options)
        answer = Answer(self._loop, request, served, prepared, work, has_timeout=has_timeout)
        try:
            served.bridge.submit(prepared.run(work, options.priority, deadline_s), answer)
        except DeadlineExceeded as error:  # it would wait for longer
            raise (OipError("unavailable", REQUEST_TIMEOUT) if has_timeout else to_oip(error)) from None
        answer.submitted()
        return answer

    def _start(self, request: InferRequest, options: Options, key: Key, served: Served, prepared: Prepared) -> Answer:
        if self._is_draining:
            raise OipError("unavailable", STOPPING)
        older = self._sequences.find(key)
        if older is not None and older.is_open:
            log.warning("sequence %r of model %s is started again before its end", key.sequence_id, key.model)
            older.close()
        sequence = Sequence(key, served, self._sequences)
        work, (deadline_s, has_timeout) = next_id(), _deadline(request, options)
        answer = Answer(self._loop, request, served, prepared, work, sequence, has_timeout)
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
            served.bridge.submit(prepared.step(work, sequence.session, deadline_s), answer)
        except ServiceError:
            sequence.close()
            raise
        if older is not None:
            sequence.follow(older)
        self._sequences.put(sequence)
        self._submitted(answer, options, sequence, prepared)
        return answer

    def _step(self, request: InferRequest, options: Options, sequence: Sequence, prepared: Prepared) -> Answer:
        served = sequence.served
        work, (deadline_s, has_timeout) = next_id(), _deadline(request, options)
        answer = Answer(self._loop, request, served, prepared, work, sequence, has_timeout)
        try:
            served.bridge.submit(prepared.step(work, sequence.session, deadline_s), answer)
        except ShuttingDown:
            sequence.lost()
            raise
        self._submitted(answer, options, sequence, prepared)
        return answer

    def _submitted(self, answer: Answer, options: Options, sequence: Sequence, prepared: Prepared) -> None:
        answer.submitted()
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

    # ------------------------------------------------------------------------------------------- what there is to know

    def server_metadata(self) -> dict[str, object]:
        """Describe the server, as ServerMetadataResponse does."""
        return server_metadata(self._version, self._shared_memory)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a version of a model can be asked.

        Raises:
            OipError: The version is none.
        """
        version_number(version)
        try:
            self._directory.find(name, version)
        except OipError:
            return False
        return True

    def model_metadata(self, name: str, version: str = "") -> dict[str, object]:
        """Describe a model, as ModelMetadataResponse does.

        Raises:
            OipError: It is not served.
        """
        face = self._directory.find(name, version).face
        return model_metadata(face, self._directory.versions(name))

    def model_config(self, name: str, version: str = "") -> dict[str, object]:
        """Describe how a model is served, as ModelConfig does.

        Raises:
            OipError: It is not served.
        """
        return model_config(self._directory.find(name, version).face, self._idle_timeout_s)

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, object]]:
        """Count requests and runs, as ModelStatistics does: of all versions where none is named, and all models.

        Raises:
            OipError: What is named is not served.
        """
        found = [self._directory.find(name, version)] if name and version else self._directory.all(name)
        return [one.statistics.describe(one.name, one.version, one.bridge.engine.run_stats()) for one in found]

    # ------------------------------------------------------------------------------------------------------ repository

    def repository_index(self, ready: bool = False) -> list[dict[str, object]]:
        """List the models that are known, as RepositoryIndexResponse's `models` does; with `ready`, those that are."""
        return [
            {
                "name": entry.name,
                "version": str(entry.version) if entry.version else "",
                "state": entry.state,
                "reason": entry.reason,
            }
            for entry in self._control.index(ready)
        ]

    async def load(self, name: str, parameters: Parameters, token: str | None) -> None:
        """Load a model.

        Raises:
            OipError: It is not allowed, or it failed.
        """
        await self._control.load(name, parameters, token)

    async def unload(self, name: str, parameters: Parameters, token: str | None) -> None:
        """Unload a model.

        Raises:
            OipError: It is not allowed, or there is no such model.
        """
        await self._control.unload(name, parameters, token)


def _deadline(request: InferRequest, options: Options) -> tuple[float | None, bool]:
    """Until when a request may wait, and whether that is its timeout rather than the end of its caller's patience."""
    if not options.timeout_s:
        return request.deadline_s, False
    until_s = time.monotonic() + options.timeout_s
    if request.deadline_s is not None and request.deadline_s <= until_s:
        return request.deadline_s, False
    return until_s, True
