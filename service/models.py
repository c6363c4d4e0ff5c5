"""The models that are being served, as the calls see them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest, Task
from models.tokenizer import Tokenizer
from models.vocabulary import Vocabulary
from service.bridge import Bridge
from service.errors import InvalidInput, ModelNotFound, WrongTask
from service.settings import Settings
from service.spelling import Speller

TagDecoder = Callable[[npt.NDArray[np.float32]], Sequence[int]]  # emissions (T, K) -> tag ids (T,)


@dataclass(frozen=True)
class Limits:
    """What requests to one model are held to; 0 where it does not apply. The fields are those of the message."""

    max_input_tokens: int
    max_output_tokens: int
    max_beam_size: int
    top_k: int
    max_sequences: int
    max_sessions: int
    max_word_characters: int
    max_sentence_characters: int
    max_message_bytes: int
    max_requests_in_flight_per_stream: int
    session_idle_timeout_s: float
    kept_answers: int
    max_marks: int

    @classmethod
    def of(cls, manifest: Manifest, settings: Settings, max_sessions: int) -> "Limits":
        """Join the bundle's limits and the server's; `max_sessions` counts where the model can be stepped."""
        decoding, spells, steps = manifest.decoding, manifest.task == "tagger", supports_sessions(manifest)
        streams, reads = spells or steps, manifest.task != "tensors"
        return cls(
            max_input_tokens=settings.max_input_tokens,  # of an imported model: steps of one request
            max_output_tokens=settings.max_output_tokens if reads else 0,
            max_beam_size=decoding.max_beam_size if manifest.task == "encoder_decoder" else 0,
            top_k=decoding.top_k if reads and "step" in manifest.graphs else 0,
            max_sequences=settings.max_sequences if reads else 0,
            max_sessions=max_sessions if "step" in manifest.graphs and not manifest.memories else 0,
            max_word_characters=settings.max_word_characters if spells else 0,
            max_sentence_characters=settings.max_sentence_characters if spells else 0,
            max_message_bytes=settings.max_message_bytes,
            max_requests_in_flight_per_stream=settings.max_requests_in_flight_per_stream if streams else 0,
            session_idle_timeout_s=settings.session_idle_timeout_s if steps else 0.0,
            kept_answers=settings.kept_answers if steps else 0,
            max_marks=settings.max_marks if steps else 0,
        )


@dataclass(frozen=True)
class LiveModel:
    """One model with its engine.

    Args:
        manifest: Of its bundle.
        tokenizers: By role.
        bridge: The way to its engine.
        limits: What requests are held to.
        provider: ONNX Runtime's execution provider.
        state_bytes: Bytes of state that one session or decoded row keeps.
        warnings: For the operator.
        decode_tags: The CRF's best path, for a tagger that has one; None takes each word's best tag.
        batch_invariant: Whether answers were seen to be the same alone and in any company.
        max_batch_rows: Most rows of one run of the step graph.
    """

    manifest: Manifest
    tokenizers: Mapping[str, Tokenizer]
    bridge: Bridge
    limits: Limits
    provider: str
    state_bytes: int
    warnings: tuple[str, ...] = ()
    decode_tags: TagDecoder | None = None
    batch_invariant: bool = True
    max_batch_rows: int = 0

    @property
    def supports_sessions(self) -> bool:
        """Whether the model can be stepped by a caller."""
        return supports_sessions(self.manifest)

    @cached_property
    def num_step_ids(self) -> int:
        """Ids that a step may be given, from 0 up; 0 for a tagger, which is given words."""
        return 0 if self.manifest.task == "tagger" else len(self.tokenizers["tokens"].vocabulary)

    @cached_property
    def speller(self) -> Speller:
        """Spells the words of a tagger."""
        return Speller(self.tokenizers["characters"])

    @cached_property
    def output_vocabulary(self) -> Vocabulary:
        """What the ids that a step gives are ids of."""
        return self.tokenizers["tags" if self.manifest.task == "tagger" else "tokens"].vocabulary


def supports_sessions(manifest: Manifest) -> bool:
    """Whether a bundle can be stepped in tokens: it has a step graph of its own that needs but inputs and state."""
    return "step" in manifest.graphs and not manifest.memories and manifest.imported is None


class Refused(NamedTuple):
    """A bundle that is not served: what is wrong is its files, or its graphs on this server."""

    name: str
    version: int
    kind: Literal["bundle", "graphs"]


class Models:
    """The models of a server, of each one version or more.

    Args:
        models: All of them.
        refused: Bundles that are not served.

    Attributes:
        by_name: The newest version of each that is served.
        refused: As given.
    """

    def __init__(self, models: Iterable[LiveModel] = (), refused: Iterable[Refused] = ()) -> None:
        self.by_name: dict[str, LiveModel] = {}
        self._versions: dict[str, dict[int, LiveModel]] = {}
        self.refused = tuple(refused)
        for model in models:
            self.put(model)

    def __iter__(self) -> Iterator[LiveModel]:
        """All that are served, by name and version."""
        return iter([model for name in sorted(self._versions) for _, model in sorted(self._versions[name].items())])

    def versions(self, name: str) -> Mapping[int, LiveModel]:
        """The versions of a model that are served; none where there is no such model."""
        return self._versions.get(name, {})

    def put(self, model: LiveModel) -> None:
        """Serve a model, in place of the same version of it if that is served."""
        name = model.manifest.name
        versions = self._versions.setdefault(name, {})
        versions[model.manifest.version] = model
        self.by_name[name] = versions[max(versions)]

    def remove(self, model: LiveModel) -> None:
        """Serve a model no more."""
        name = model.manifest.name
        versions = self._versions[name]
        del versions[model.manifest.version]
        if versions:
            self.by_name[name] = versions[max(versions)]
        else:
            del self._versions[name], self.by_name[name]

    def find(self, name: str, version: int = 0, field: str = "model") -> LiveModel:
        """Find the model that a request names.

        Args:
            name: Of the model.
            version: Which one; 0: the newest that is served.
            field: Path of what names it, for messages.

        Raises:
            InvalidInput: It names none.
            ModelNotFound: It is not served.
        """
        if not name:
            raise InvalidInput(f"{field}.name", "the name of a model", "nothing")
        if version < 0:
            raise InvalidInput(f"{field}.version", "0 for the newest, or a version from 1", str(version))
        model = self.by_name.get(name)
        if model is None:
            served = ", ".join(sorted(self.by_name)[:10]) or "none"
            raise ModelNotFound(f"{field}.name: expected a model that is served ({served}), got {name!r}")
        if version == 0:
            return model
        versions = self._versions[name]
        if version not in versions:
            served = ", ".join(map(str, sorted(versions)[-10:]))
            which = f"the version of {name!r} that is served" if len(versions) == 1 else f"a served version of {name!r}"
            raise ModelNotFound(f"{field}.version: expected {served}, {which}, got {version}")
        return versions[version]

    def find_for(self, task: Task, name: str, version: int = 0) -> LiveModel:
        """Find the model that a request names and that must have a certain task.

        Raises:
            InvalidInput, ModelNotFound: As in `find`.
            WrongTask: It does something else.
        """
        model = self.find(name, version)
        if model.manifest.task != task:
            raise WrongTask(f"model: expected one whose task is {task}, got {name!r}: {model.manifest.task}")
        return model
