"""An engine that answers at once by simple arithmetic, or holds requests until the test says what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from service.engine.interface import (
    AnyRequest,
    CloseSession,
    Decode,
    DescribeSessions,
    EngineStats,
    Event,
    ExportSession,
    Failed,
    Finished,
    ForkSession,
    Generate,
    GraphRuns,
    Hypothesis,
    MarkSession,
    OpenSession,
    Publish,
    RewindSession,
    RunSequence,
    RunStats,
    SessionDescription,
    SessionId,
    SessionState,
    SessionSteps,
    StepOutputs,
    StepSession,
    TokensDecided,
)
from service.errors import MarkNotFound, ServiceError, SessionNotFound, StepMismatch
from tests.service.fake_door import FakeDoor

NUM_TAGS = 3
VOCABULARY_SIZE = 12


@dataclass
class FakeSession:
    """The state of a session: the sum of its inputs.

    Args:
        total: That sum.
        num_steps: How many they were.
        marks: Totals and steps to come back to.
        answers: By first step, what was answered, for steps that are sent again.
    """

    total: int = 0
    num_steps: int = 0
    marks: dict[int, tuple[int, int]] = field(default_factory=dict)
    answers: dict[int, StepOutputs] = field(default_factory=dict)


class FakeEngine(FakeDoor):
    """Does simple arithmetic, on the thread that submits, which the bridge must not mind.

    Tagging gives word id mod NUM_TAGS; scoring gives minus a tenth of each target id; decoding gives the source back;
    generating counts up from the last prompt id; a session's state is the sum of its inputs.
    """

    def __init__(self, publish: Publish) -> None:
        super().__init__(publish)
        self.sessions: dict[SessionId, FakeSession] = {}

    def stats(self) -> EngineStats:
        return EngineStats(2, len(self.held), 8, 10, 7, 9, len(self.sessions), 640, 6400, 3, 4)

    def run_stats(self) -> RunStats:
        return RunStats((GraphRuns("step", 2, 3, 0.5),), 6, 0.25)

    def forget(self, session: SessionId) -> int:
        return self.sessions.pop(session).num_steps

    def events(self, request: AnyRequest) -> Sequence[Event]:
        match request:
            case RunSequence():
                return [Finished(request.id, run_sequence(request))]
            case Decode():
                tokens = request.source[: request.max_tokens]
                hypotheses = [
                    Hypothesis(tokens, -1.0 - i, -0.5 - i, "end" if len(tokens) == len(request.source) else "length")
                    for i in range(request.num_best)
                ]
                decided = [TokensDecided(request.id, (token,), (-0.25,)) for token in tokens]
                return [*decided, Finished(request.id, hypotheses)]
            case Generate():
                first = request.prompt[-1]
                tokens = tuple(4 + (first + i) % (VOCABULARY_SIZE - 4) for i in range(request.max_tokens))
                return [TokensDecided(request.id, tokens, (-0.5,) * len(tokens)), Finished(request.id, "length")]
            case DescribeSessions():
                known = [(i, self.sessions[i]) for i in request.sessions if i in self.sessions]
                described = tuple(SessionDescription(i, 9.0, 2.5, s.num_steps, tuple(s.marks)) for i, s in known)
                return [Finished(request.id, described)]
        try:
            return [Finished(request.id, self.on_session(request))]
        except ServiceError as error:
            return [Failed(request.id, error)]

    def on_session(self, request: AnyRequest) -> object:
        if isinstance(request, OpenSession):
            total = 0 if request.initial is None else int(request.initial["total"].item())
            self.sessions[request.session] = FakeSession(total, request.num_steps)
            return SessionSteps(request.num_steps)
        assert isinstance(
            request, StepSession | ForkSession | MarkSession | RewindSession | ExportSession | CloseSession
        )
        session = self.sessions.get(request.source if isinstance(request, ForkSession) else request.session)
        if session is None:
            raise SessionNotFound("no such session")
        match request:
            case StepSession():
                return self.step(session, request)
            case ForkSession():
                self.sessions[request.session] = FakeSession(session.total, session.num_steps)
            case MarkSession():
                session.marks[request.mark] = (session.total, session.num_steps)
            case RewindSession():
                if request.mark not in session.marks:
                    raise MarkNotFound(f"rewind.mark: expected a mark of the session, got {request.mark}")
                session.total, session.num_steps = session.marks[request.mark]
                session.answers.clear()
            case ExportSession():
                return SessionState({"total": np.array([session.total], np.float32)}, session.num_steps)
            case CloseSession():
                del self.sessions[request.session]
        return SessionSteps(session.num_steps)

    def step(self, session: FakeSession, request: StepSession) -> StepOutputs:
        first = request.first_step
        if first is not None and first != session.num_steps:
            kept = session.answers.get(first)
            if kept is None or len(kept.token_ids) != request.num_steps:
                raise StepMismatch("step.first_step", session.num_steps, first)
            return kept._replace(replayed=True)
        begin, rows = session.num_steps, []
        for token in next(iter(request.inputs.values())):
            assert isinstance(token, int)
            session.total += token
            session.num_steps += 1
            rows.append([(session.total + i) % NUM_TAGS for i in range(request.num_top)])
        log_probs = [[-float(i) for i in row] for row in rows]
        session.answers[begin] = StepOutputs(rows, log_probs, session.num_steps)
        return session.answers[begin]


def run_sequence(request: RunSequence) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The whole-sequence outputs of the fake: see the class."""
    if request.outputs == ("emissions",):
        emissions = np.zeros((request.length, NUM_TAGS), np.float32)
        emissions[np.arange(request.length), request.inputs["words"] % NUM_TAGS] = np.log(8)
        return {"emissions": emissions}
    return {"target_log_probs": (request.inputs["targets"] / -10).astype(np.float32)}
