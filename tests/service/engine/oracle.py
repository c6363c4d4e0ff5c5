"""What the tiny models answer, one request at a time, in plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.decoding.beam import BeamSearch
from service.decoding.greedy import GreedySearch
from service.decoding.sampling import sample
from service.engine.interface import Decode, Generate, Hypothesis
from tests.service import tiny_models as tiny

Table = npt.NDArray[np.float32]


def best_tokens(table: Table, state: int, count: int) -> list[int]:
    return np.argsort(-table[state], kind="stable")[:count].tolist()  # type: ignore[no-any-return]


def decode(table: Table, request: Decode) -> list[Hypothesis]:
    """The searches themselves are held against enumeration in tests/service/decoding."""
    search = (
        GreedySearch(request.length_penalty, request.max_tokens, 2, tiny.END)
        if request.beam_size == 1
        else BeamSearch(request.beam_size, request.num_best, request.length_penalty, request.max_tokens, 2, tiny.END)
    )
    states = [tiny.source_hash(request.source)]
    while not search.done:
        states = [
            tiny.next_hash(states[parent], token, sum(request.source))
            for parent, token in zip(search.parents, search.tokens, strict=True)
        ]
        ids = [best_tokens(table, state, tiny.TOP_K) for state in states]
        search.advance([table[state][best].tolist() for state, best in zip(states, ids, strict=True)], ids)
    return search.hypotheses()


def generate(table: Table, request: Generate) -> tuple[list[int], str]:
    state = 0
    for token in request.prompt:
        state = tiny.next_hash(state, token)
    text: list[int] = []
    while len(text) < request.max_tokens:
        token = sample(table[state], request.sampling, len(text))
        if token == tiny.END:
            return text, "end"
        text.append(token)
        state = tiny.next_hash(state, token)
    return text, "length"


def emissions(table: Table, words: Sequence[int], characters: Sequence[Sequence[int]]) -> Table:
    sums = np.cumsum(words) + np.array([sum(spelled) for spelled in characters])
    rows: Table = table[sums % tiny.MODULUS]
    return rows


@dataclass(frozen=True)
class SessionState:
    """Where a session may be."""

    state: int = 0
    num_steps: int = 0

    def step(self, token: int) -> "SessionState":
        return SessionState(tiny.next_hash(self.state, token), self.num_steps + 1)
