"""An engine that answers at once by simple arithmetic, or holds requests until the test says what becomes of them."""

from collections.abc import Sequence

import numpy as np

from service.engine.interface import (
    Cancelled,
    CloseSession,
    Decode,
    EngineStats,
    Event,
    Failed,
    Finished,
    Generate,
    Hypothesis,
    OpenSession,
    Publish,
    Request,
    RequestId,
    RunSequence,
    StepOutputs,
    StepSession,
    TokensDecided,
)
from service.errors import ServiceError, SessionNotFound

NUM_TAGS = 3
VOCABULARY_SIZE = 12


class FakeEngine:
    """An EngineDoor; `publish` is called on the thread that submits, which the bridge must not mind.

    Tagging gives word id mod NUM_TAGS; scoring gives minus a tenth of each target id; decoding gives the source back;
    generating counts up from the last prompt id; a session's state is the sum of its inputs.
    """

    def __init__(self, publish: Publish) -> None:
        self.publish = publish
        self.submitted: list[Request] = []
        self.cancelled: list[RequestId] = []
        self.held: dict[RequestId, Request] = {}
        self.hold = False
        self.refusals: list[ServiceError] = []  # raised by the next submits, first to last
        self.sessions: dict[int, list[int]] = {}  # sum of inputs, steps

    def submit(self, request: Request) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.submitted.append(request)
        self.held[request.id] = request
        if not self.hold:
            self.release(request.id)

    def cancel(self, request: RequestId) -> None:
        self.cancelled.append(request)
        if self.held.pop(request, None) is not None:
            self.publish([Cancelled(request)])

    def stats(self) -> EngineStats:
        return EngineStats(2, len(self.held), 8, 10, 7, 9, len(self.sessions))

    def release(self, request: RequestId) -> None:
        """Answer a held request."""
        self.publish(self.events(self.held.pop(request)))

    def fail(self, request: RequestId, error: ServiceError) -> None:
        """Fail a held request."""
        del self.held[request]
        self.publish([Failed(request, error)])

    def events(self, request: Request) -> Sequence[Event]:
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
            case OpenSession():
                self.sessions[request.session] = [0, 0]
                return [Finished(request.id, None)]
            case StepSession():
                return [Finished(request.id, self.step(request))]
            case CloseSession():
                if request.session not in self.sessions:
                    return [Failed(request.id, SessionNotFound("no such session"))]
                return [Finished(request.id, self.sessions.pop(request.session)[1])]
        raise AssertionError(request)

    def step(self, request: StepSession) -> StepOutputs:
        state = self.sessions[request.session]
        rows = []
        for token in next(iter(request.inputs.values())).tolist():
            state[0] += token
            state[1] += 1
            rows.append([(state[0] + i) % NUM_TAGS for i in range(request.num_top)])
        ids = np.array(rows, np.int64).reshape(request.num_steps, request.num_top)
        return StepOutputs(ids, -ids.astype(np.float32), state[1])


def run_sequence(request: RunSequence) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The whole-sequence outputs of the fake: see the class."""
    if request.outputs == ("emissions",):
        emissions = np.zeros((request.length, NUM_TAGS), np.float32)
        emissions[np.arange(request.length), request.inputs["words"] % NUM_TAGS] = np.log(8)
        return {"emissions": emissions}
    return {"target_log_probs": (request.inputs["targets"] / -10).astype(np.float32)}
