"""The one narrow door to the engine: requests go in, events come out.

Everything here is a plain value: no gRPC, no text, no callbacks in requests. The front end turns text into ids before
and ids into text after. The door could cross a process boundary: three calls (submit, cancel, and the `publish`
callable that takes lists of events), nothing shared.

Every submitted request that was not refused by `submit` itself ends in exactly one terminal event: Finished, Failed or
Cancelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from service.errors import ServiceError

RequestId = int  # unique for the life of the process; the front end counts
SessionId = int  # likewise, assigned by the front end on open


@dataclass(frozen=True)
class Request:
    """What every request has.

    Args:
        id: Names the request in events and in `cancel`.
        deadline_s: When the answer is of no more use, on the engine's clock (time.monotonic); None waits without bound
            of its own (the caller's stream bounds it).
    """

    id: RequestId
    deadline_s: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class RunSequence(Request):
    """Run the `sequence` graph over one whole sequence (tagging, scoring).

    Args:
        inputs: By graph input name, without the batch dimension: `words` (T,), `characters` (T, C), ...; ragged
            dimensions are padded when sequences are batched. States start from their initial value.
        length: T.
        outputs: Names of the graph outputs wanted. Finished.value is a dict of them, time cut back to T.
    """

    inputs: Mapping[str, npt.NDArray[np.int64]]
    length: int
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Decode(Request):
    """Encode a source and search for its best targets. Events: TokensDecided ..., Finished(value=list[Hypothesis])."""

    source: tuple[int, ...]
    beam_size: int
    num_best: int
    length_penalty: float
    max_tokens: int


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: greedy at temperature 0; noise is a function of (seed, position) alone."""

    temperature: float
    top_k: int  # 0: all
    top_p: float
    seed: int


@dataclass(frozen=True)
class Generate(Request):
    """Read a prompt (at least one id: the front end puts the begin symbol there), then sample.

    Events: TokensDecided ..., Finished(value=FinishReason).
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int


@dataclass(frozen=True)
class OpenSession(Request):
    """Take a slot and start from the initial state. Finished(value=None)."""

    session: SessionId


@dataclass(frozen=True)
class StepSession(Request):
    """Advance a session once for each input. Finished(value=StepOutputs).

    Args:
        inputs: By step-graph input name, steps first: `tokens` (n,), `characters` (n, C), ...
        num_steps: n.
        num_top: How many of the best outputs to return a step; 0 for none.
    """

    session: SessionId
    inputs: Mapping[str, npt.NDArray[np.int64]]
    num_steps: int
    num_top: int


@dataclass(frozen=True)
class CloseSession(Request):
    """Free the session's slot after the steps submitted before. Finished(value=steps taken)."""

    session: SessionId


FinishReason = Literal["end", "length"]


@dataclass(frozen=True)
class Hypothesis:
    """One finished target, without the end symbol.

    Args:
        tokens: Target ids.
        log_prob: Sum of natural-log probabilities, the end symbol's included.
        score: log_prob over the length penalty.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True)
class StepOutputs:
    """Best outputs of each step, best first.

    Args:
        token_ids: (n, num_top).
        log_probs: (n, num_top), natural log.
        num_steps: Steps that the session has taken in all.
    """

    token_ids: npt.NDArray[np.int64]
    log_probs: npt.NDArray[np.float32]
    num_steps: int


@dataclass(frozen=True)
class TokensDecided:
    """Tokens that are now certain to be part of the answer, in order."""

    request: RequestId
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """Terminal: done."""

    request: RequestId
    value: object


@dataclass(frozen=True)
class Failed:
    """Terminal: refused after admission, or broken."""

    request: RequestId
    error: ServiceError


@dataclass(frozen=True)
class Cancelled:
    """Terminal: `cancel` took effect before the end."""

    request: RequestId


Event = TokensDecided | Finished | Failed | Cancelled
Publish = Callable[[Sequence[Event]], None]


@dataclass(frozen=True)
class EngineStats:
    """A snapshot for health, tests and metrics."""

    waiting: int
    running: int
    free_slots: int
    num_slots: int
    free_memory_rows: int
    num_memory_rows: int
    sessions: int


class EngineDoor(Protocol):
    """What the front end may do with an engine; safe to call from any thread."""

    def submit(self, request: Request) -> None:
        """Admit a request.

        Raises:
            Overloaded: The inbox is full. Nothing was admitted.
            ShuttingDown: The engine was closed.
            InternalFailure: A bug has ended the engine.
        """

    def cancel(self, request: RequestId) -> None:
        """Stop a request within one step; unknown and ended ids are ignored."""

    def stats(self) -> EngineStats:
        """Counts as of the last turn."""
