"""The Open Inference Protocol without a wire: what gRPC and HTTP both call.

Everything here runs on the event loop. `begin` checks and submits before it returns, so that requests take effect in
the order in which they were begun. Dicts have the names of the protocol's fields, enumerations as their names.
"""

import time

from service.lifecycle.errors import ChangeError
from service.models import Models
from service.oip.changes import change_to_oip, check_load, check_unload
from service.oip.control import ModelControl
from service.oip.describe import model_config, model_metadata, server_metadata
from service.oip.directory import Directory, version_number
from service.oip.errors import OipError
from service.oip.inference.answer import Answer
from service.oip.inference.sequences import Sequences
from service.oip.inference.submission import Inference
from service.oip.messages import InferRequest, Parameters
from service.oip.statistics import NS_PER_S

MAX_INPUT_BYTES = 2**30


class Core:
    """See the module docstring.

    Args:
        models: That are served.
        control: Of the repository.
        version: Of this server.
        sequence_idle_timeout_s: Seconds without a request after which a sequence is ended.
        shared_memory: Whether callers may name shared memory: an adapter sees to that, this is for the metadata.
        max_input_bytes: Most bytes of inputs of unanswered requests.
    """

    def __init__(
        self,
        models: Models,
        control: ModelControl,
        *,
        version: str,
        sequence_idle_timeout_s: float,
        shared_memory: bool = False,
        max_input_bytes: int = MAX_INPUT_BYTES,
    ) -> None:
        self._control = control
        self._directory = Directory(models, control)
        self._sequences = Sequences(self._directory)
        self._version = version
        self._idle_timeout_s = sequence_idle_timeout_s
        self._shared_memory = shared_memory
        self._inference = Inference(self._directory, self._sequences, sequence_idle_timeout_s, max_input_bytes)

    @property
    def is_ready(self) -> bool:
        """Whether new work is taken."""
        return not self._inference.is_draining

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
        self._inference.is_draining = True

    def begin(self, request: InferRequest) -> Answer:
        """Check a request and submit it.

        Returns:
            Its answer, an `asyncio.Future[InferResponse]` that may fail with OipError. Cancelling it stops the work,
            and with it the sequence that it belongs to.

        Raises:
            OipError: It was refused, and changed nothing, but that a START has ended the older sequence of its id.
        """
        return self._inference.begin(request)

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
        try:
            self._control.authorise(token)  # before a word about what else is wrong
            check_load(parameters)
            await self._control.load(name, token)
        except ChangeError as error:
            raise change_to_oip(error) from error

    async def unload(self, name: str, parameters: Parameters, token: str | None) -> None:
        """Unload a model.

        Raises:
            OipError: It is not allowed.
        """
        try:
            self._control.authorise(token)
            check_unload(parameters)
            await self._control.unload(name, token)
        except ChangeError as error:
            raise change_to_oip(error) from error
