"""What sessions answer, each alone, in plain Python: the model, and where a session of it is.

The model's state is a number that every input and every earlier state went into, and a trail of the latest inputs in a
second tensor: a lost, doubled, swapped, torn or stale state gives other answers from there on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from export.manifest import DecodingDefaults, GraphSpec, Manifest, StateSpec, TensorSpec, TokenizerSpec
from service.engine.cost import Costs, RowCost
from service.engine.interface import StateTensors, StepOutputs

PRIME: Final = 2**31 - 1
TOP_K: Final = 3
STATE_BYTES: Final = 8 + 2 * 2 * 4
# In runs of one row several steps are cheap: chunks are made wherever they can be.
CHUNKS_PAY: Final = Costs(steps={steps: RowCost({1: 1.0 + 0.1 * steps, 2: 1.1 + 0.1 * steps}) for steps in (1, 2, 4)})
_FACTOR, _INPUT, _TRAIL = 48_271, 69_621, 40_692


class State(NamedTuple):
    """The model's state: a digest of everything; the last two inputs, the digest before and the steps, in 16 bits."""

    digest: int
    trail: tuple[int, int, int, int]

    def step(self, token: int) -> "State":
        """The state after one more input."""
        digest = (_FACTOR * self.digest + _INPUT * token + _TRAIL * sum(self.trail) + 1) % PRIME
        last, _, _, steps = self.trail
        return State(digest, (token % 65_536, last, self.digest % 65_536, (steps + 1) % 65_536))

    def top(self, count: int) -> tuple[list[int], list[float]]:
        """The best ids and their log-probabilities, which are exact in float32."""
        ids = [(self.digest * (rank + 1) + self.trail[0]) % 65_536 for rank in range(count)]
        return ids, [-float(rank) - (self.digest % 4_096) / 4_096 for rank in range(count)]

    def tensors(self) -> StateTensors:
        """As an engine gives and takes it."""
        trail = np.array(self.trail, dtype=np.float32).reshape(2, 2)
        return {"digest": np.array([self.digest], dtype=np.int64), "trail": trail}


INITIAL: Final = State(1_234_567, (7, 8, 9, 0))  # row 0 of the pools: not zeros, so that zeros are wrong


class Answer(NamedTuple):
    """What a session keeps of steps that were answered."""

    first_step: int
    tokens: tuple[int, ...]
    token_ids: tuple[tuple[int, ...], ...]
    log_probs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class History:
    """Where a session is.

    Args:
        state: Its state.
        num_steps: Steps taken in all.
        answers: The kept answers, oldest first.
        marks: By number: state and steps.
    """

    state: State
    num_steps: int
    answers: tuple[Answer, ...] = ()
    marks: tuple[tuple[int, State, int], ...] = ()

    def step(self, tokens: Sequence[int], num_top: int, most_answers: int) -> tuple["History", Answer]:
        """Take all the steps of a request and keep its answer."""
        state, ids, log_probs = self.state, [], []
        for token in tokens:
            state = state.step(token)
            top = state.top(num_top)
            ids.append(tuple(top[0]))
            log_probs.append(tuple(top[1]))
        answer = Answer(self.num_steps, tuple(tokens), tuple(ids), tuple(log_probs))
        answers = (*self.answers, answer)[-most_answers:] if most_answers else ()
        return replace(self, state=state, num_steps=self.num_steps + len(tokens), answers=answers), answer

    def find_answer(self, first_step: int, tokens: Sequence[int]) -> Answer | None:
        """The kept answer to these inputs from there on."""
        return next((a for a in self.answers if (a.first_step, a.tokens) == (first_step, tuple(tokens))), None)

    def mark(self, number: int) -> "History":
        """Remember the state."""
        others = tuple(mark for mark in self.marks if mark[0] != number)
        return replace(self, marks=(*others, (number, self.state, self.num_steps)))

    def rewind(self, number: int) -> "History | None":
        """Back to a mark, which stays; None: there is none of that number."""
        for mark, state, num_steps in self.marks:
            if mark == number:
                return replace(self, state=state, num_steps=num_steps, answers=())
        return None

    def fork(self) -> "History":
        """The beginning of a session that starts here."""
        return History(self.state, self.num_steps)


def as_answer(tokens: Sequence[int], outputs: StepOutputs) -> Answer:
    """An engine's answer to these inputs in the reference's form."""
    ids = tuple(tuple(step) for step in outputs.token_ids)
    log_probs = tuple(tuple(step) for step in outputs.log_probs)
    return Answer(outputs.num_steps - len(ids), tuple(tokens), ids, log_probs)


def greedy(prompt: Sequence[int], count: int, end: int) -> list[int]:
    """The text that follows a prompt if the best id is always taken; it stops before `end`."""
    state = INITIAL
    for token in prompt:
        state = state.step(token)
    text: list[int] = []
    while len(text) < count:
        token = state.top(1)[0][0]
        if token == end:
            break
        text.append(token)
        state = state.step(token)
    return text


def make_manifest(with_chunk: bool = True) -> Manifest:
    """The manifest of the model, with the step graph and the one of many steps."""
    states = (
        StateSpec(name="digest", dtype="int64", shape=(1,), pool_input="digest_pool", pool_output="digest_pool_out"),
        StateSpec(name="trail", dtype="float32", shape=(2, 2), pool_input="trail_pool", pool_output="trail_pool_out"),
    )
    graphs = {"step": _graph("step", ("B",))}
    if with_chunk:
        graphs["chunk"] = _graph("chunk", ("B", "T"))
    return Manifest(
        name="reference",
        version=1,
        task="language_model",
        precision="fp32",
        graphs=graphs,
        states=states,
        tokenizers={"tokens": TokenizerSpec(kind="none", vocabulary="tokens.json")},
        decoding=DecodingDefaults(top_k=TOP_K),
        created="2025-01-01T00:00:00Z",
        files={},
    )


def _graph(name: str, axes: tuple[str, ...]) -> GraphSpec:
    pools = (
        TensorSpec(name="digest_pool", dtype="int64", shape=("N", 1)),
        TensorSpec(name="trail_pool", dtype="float32", shape=("N", 2, 2)),
    )
    slots = tuple(TensorSpec(name=slot, dtype="int64", shape=("B",)) for slot in ("read_slots", "write_slots"))
    inputs = (TensorSpec(name="tokens", dtype="int64", shape=axes), *slots, *pools)
    outputs = (
        TensorSpec(name="top_log_probs", dtype="float32", shape=(*axes, TOP_K)),
        TensorSpec(name="top_tokens", dtype="int64", shape=(*axes, TOP_K)),
    )
    pools_out = tuple(pool.model_copy(update={"name": f"{pool.name}_out"}) for pool in pools)
    return GraphSpec(file=f"{name}.onnx", inputs=inputs, outputs=outputs + pools_out)
