"""The one narrow door to the engine: requests go in, events come out.

Everything here is a plain value: no gRPC, no text, no callbacks in requests. The front end turns text into ids before
and ids into text after. The door could cross a process boundary: three calls (submit, cancel, and the `publish`
callable that takes lists of events), nothing shared.

Every submitted request that was not refused by `submit` itself ends in exactly one terminal event: Finished, Failed or
Cancelled. Requests that name one session take effect in the order in which they were submitted.

Values that pass once a step (StepSession, StepOutputs, the events) are tuples: a frozen dataclass takes three times as
long to make.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from service.errors import ServiceError

# Unique for the life of the process, requests and sessions together: the front end draws both from one counter.
RequestId = int
SessionId = int


class Priority(IntEnum):
    """Who goes first: see `service.engine.schedule`."""

    LOW = -1
    NORMAL = 0
    HIGH = 1


@dataclass(frozen=True)
class Request:
    """What every request has, but for StepSession, which is a tuple with the same names.

    Args:
        id: Names the request in events and in `cancel`.
        deadline_s: When the answer is of no more use, on the engine's clock (time.monotonic); None waits without bound
            of its own (the caller's stream bounds it).
        priority: Who goes first.
    """

    id: RequestId
    deadline_s: float | None = field(default=None, kw_only=True)
    priority: Priority = field(default=Priority.NORMAL, kw_only=True)


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
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True)
class Generate(Request):
    """Read a prompt (at least one id: the front end puts the begin symbol there), then sample.

    Events: TokensDecided ..., Finished(value=FinishReason).
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int


StateTensors = Mapping[str, npt.NDArray[Any]]  # by `StateSpec.name`, each of that state's shape and dtype


@dataclass(frozen=True)
class OpenSession(Request):
    """Start a session. Finished(value=SessionSteps(its num_steps)).

    Args:
        session: Its id.
        initial: Where to start from; states that it leaves out, or all with None, start as the model's initial state.
        num_steps: Steps behind the initial state.
        idle_timeout_s: Seconds without a request after which the engine ends the session and publishes SessionEnded;
            None is never.
        priority: Of the session's steps.
    """

    session: SessionId
    initial: StateTensors | None = None
    num_steps: int = 0
    idle_timeout_s: float | None = None


class StepSession(NamedTuple):
    """Advance a session once for each input. Finished(value=StepOutputs).

    Args:
        id: As of any request.
        session: Whose state.
        inputs: By step-graph input name, steps first: `tokens` n ids, `characters` n lists of ids, ...
        num_steps: n.
        num_top: How many of the best outputs to return a step; 0 for none.
        first_step: Index of the first of the steps; None: whatever comes next. An answered index gives the stored
            answer, any other one that is not the next fails with StepMismatch.
        deadline_s: As of any request.
    """

    id: RequestId
    session: SessionId
    inputs: Mapping[str, Sequence[int] | Sequence[Sequence[int]]]
    num_steps: int
    num_top: int
    first_step: int | None = None
    deadline_s: float | None = None


Tensors = Mapping[str, npt.NDArray[Any]]


class StepTensors(NamedTuple):
    """Advance a session of an imported model once for each row of its inputs. Finished(value=TensorOutputs).

    Args:
        id: As of any request.
        session: Whose state.
        inputs: By input name, (num_steps, *shape of one step); steps of one request differ in values alone.
        shared: By name, the inputs that have one value for all rows of a batch.
        num_steps: At least 1.
        outputs: Names of the graph outputs wanted.
        deadline_s: As of any request.
    """

    id: RequestId
    session: SessionId
    inputs: Tensors
    shared: Tensors
    num_steps: int
    outputs: tuple[str, ...]
    deadline_s: float | None = None


@dataclass(frozen=True)
class RunTensors(Request):
    """Run an imported model that has no state. Finished(value=TensorOutputs).

    Args:
        inputs: By input name, (num_rows, *shape).
        shared: As in `StepTensors`.
        num_rows: At least 1.
        outputs: Names of the graph outputs wanted.
    """

    inputs: Tensors
    shared: Tensors
    num_rows: int
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ForkSession(Request):
    """Start `session` where `source` is after the requests submitted before. Finished(value=SessionSteps)."""

    source: SessionId
    session: SessionId
    idle_timeout_s: float | None = None


@dataclass(frozen=True)
class MarkSession(Request):
    """Remember where a session is after the requests submitted before. Finished(value=SessionSteps)."""

    session: SessionId
    mark: int


@dataclass(frozen=True)
class RewindSession(Request):
    """Go back to a mark, which stays; fails with MarkNotFound. Finished(value=SessionSteps)."""

    session: SessionId
    mark: int


@dataclass(frozen=True)
class ExportSession(Request):
    """Copy out the state after the requests submitted before. Finished(value=SessionState)."""

    session: SessionId


@dataclass(frozen=True)
class DescribeSessions(Request):
    """Tell how some sessions are doing. Finished(value=tuple of SessionDescription, of those that are open)."""

    sessions: tuple[SessionId, ...]


@dataclass(frozen=True)
class CloseSession(Request):
    """End the session after the requests submitted before. Finished(value=SessionSteps)."""

    session: SessionId


@dataclass(frozen=True)
class LiftSession(Request):
    """Copy out all that a session is, after the requests submitted before. Finished(value=CarriedSession).

    The session stays where it is, and does not expire, until EndLift; nothing else is to be asked of it meanwhile.
    """

    session: SessionId


@dataclass(frozen=True)
class LandSession(Request):
    """Open a session as it was lifted from another engine of the same model. Finished(value=SessionSteps).

    It can be asked at once, and does not expire before EndLift.
    """

    session: SessionId
    carried: "CarriedSession"


@dataclass(frozen=True)
class EndLift(Request):
    """Say that a session, which was lifted or has landed, is here to stay, or is `gone`. Finished(value=None).

    One that is gone ends without a word: it goes on elsewhere, or has ended there.
    """

    session: SessionId
    gone: bool


AnyRequest = Request | StepSession | StepTensors


class SessionSteps(NamedTuple):
    """Steps that a session has taken in all."""

    num_steps: int


class SessionState(NamedTuple):
    """Where a session is: its tensors, copied, and the steps behind them."""

    tensors: StateTensors
    num_steps: int


class CarriedSession(NamedTuple):
    """All that a session is, for another engine of the same model in the same process.

    Args:
        tensors: Its state, copied; None: the initial one.
        num_steps: Steps that it has taken in all.
        marks: Number, state as above and steps of each.
        answers: Kept for steps that are sent again; see `service.engine.answers`.
        opened_s: When it was opened, on the engines' clock.
        last_used_s: When it was last asked or answered.
        idle_timeout_s: As it was opened with.
        priority: Of its steps.
    """

    tensors: StateTensors | None
    num_steps: int
    marks: tuple[tuple[int, StateTensors | None, int], ...]
    answers: tuple[bytes, ...]
    opened_s: float
    last_used_s: float
    idle_timeout_s: float | None
    priority: Priority


class SessionDescription(NamedTuple):
    """One open session, for who lists them."""

    session: SessionId
    age_s: float
    idle_s: float
    num_steps: int
    marks: tuple[int, ...]
    idle_timeout_s: float | None = None
    priority: Priority = Priority.NORMAL


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


class StepOutputs(NamedTuple):
    """Best outputs of each step, best first.

    Args:
        token_ids: n lists of num_top ids.
        log_probs: n lists of num_top natural-log probabilities.
        num_steps: Steps that the session has taken in all.
        replayed: Whether this is a stored answer and nothing advanced.
    """

    token_ids: Sequence[Sequence[int]]
    log_probs: Sequence[Sequence[float]]
    num_steps: int
    replayed: bool = False


class TensorOutputs(NamedTuple):
    """Outputs of an imported model.

    Args:
        tensors: By output name, a row for each step or row of the request.
        num_steps: Steps that the session has taken in all; 0 where there is none.
    """

    tensors: Tensors
    num_steps: int = 0


class TokensDecided(NamedTuple):
    """Tokens that are now certain to be part of the answer, in order."""

    request: RequestId
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


class Finished(NamedTuple):
    """Terminal: done."""

    request: RequestId
    value: object


class Failed(NamedTuple):
    """Terminal: refused after admission, or broken."""

    request: RequestId
    error: ServiceError


class Cancelled(NamedTuple):
    """Terminal: `cancel` took effect before the end."""

    request: RequestId


class SessionEnded(NamedTuple):
    """A session is over though nobody closed it: idle for too long, or a step of it broke. Answers no request.

    Args:
        session: Which.
        expired: Whether it was idle for too long.
        num_steps: Steps that it had taken.
    """

    session: SessionId
    expired: bool
    num_steps: int


Event = TokensDecided | Finished | Failed | Cancelled | SessionEnded
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
    host_state_bytes: int = 0
    max_host_state_bytes: int = 0
    sessions_expired: int = 0
    requests_refused: int = 0


class GraphRuns(NamedTuple):
    """Runs of one graph with so many rows."""

    graph: str
    rows: int
    num_runs: int
    seconds: float


class RunStats(NamedTuple):
    """What an engine has run since its start; only ever grows.

    Args:
        runs: By graph and rows, smallest first.
        num_waits: Times that work waited for a run.
        wait_s: Seconds that it waited in all.
    """

    runs: tuple[GraphRuns, ...]
    num_waits: int
    wait_s: float


class EngineDoor(Protocol):
    """What the front end may do with an engine; safe to call from any thread."""

    def submit(self, request: AnyRequest) -> None:
        """Admit a request.

        Raises:
            Overloaded: The inbox is full. Nothing was admitted.
            ShuttingDown: The engine was closed.
            InternalFailure: A bug has ended the engine.
        """

    def cancel(self, request: RequestId) -> None:
        """Stop a request within one step; unknown and ended ids are ignored.

        The steps of a StepSession are taken whole or not at all: once the first one is taken it is finished, unless the
        session is being closed.
        """

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request runs by now or is over, rather than waiting; may itself wait for a turn of the engine."""

    def stats(self) -> EngineStats:
        """Counts as of the last turn."""

    def run_stats(self) -> RunStats:
        """What has run since the start."""
