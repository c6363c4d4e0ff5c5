"""One text, run by hand over a model in plain Python that only sees what the task gives it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.decoding.sampling import sample
from service.engine.interface import Finished, Generate, Sampling, TokensDecided
from service.engine.slots import Slot
from service.engine.tasks.generate import GenerateTask
from service.engine.tasks.task import TOP, Outputs
from tests.service import tiny_models as tiny
from tests.service.decoding.test_penalties import penalised

VOCABULARY = 20
TABLE = tiny.make_table(vocabulary=VOCABULARY)
SLOT = Slot(5, 0)


class Model:
    """The state pool, and a step or a chunk of it for one task."""

    def __init__(self, num_top: int) -> None:
        self.states = {0: 0}
        self._num_top = num_top

    def run(self, task: GenerateTask, length: int) -> Outputs:
        """Read where the task says, feed what it gives, and leave nothing in the outputs but what it asked for."""
        [given_tokens] = task.inputs["tokens"]
        tokens = given_tokens if length > 1 else [given_tokens]
        assert len(tokens) == length
        [state] = [self.states[row] for row in task.read_rows]
        for token in tokens:
            state = tiny.next_hash(state, token)
        [written] = task.write_rows
        self.states[written] = state
        row = TABLE[state]
        best = np.argsort(-row, kind="stable")[: self._num_top]
        arrays: dict[str, npt.NDArray[Any]] = {"log_probs": row, "top_log_probs": row[best], "top_tokens": best}
        # Another row before it, which is not its own.
        asked = {name: np.stack([np.zeros_like(arrays[name]), arrays[name]]) for name in task.outputs}
        return Outputs(asked, task.num_top)


def expected_text(request: Generate) -> tuple[list[int], list[float], str]:
    """By definition, with whole rows and penalties over the whole vocabulary."""
    state, text, log_probs = 0, list[int](), list[float]()
    for token in request.prompt:
        state = tiny.next_hash(state, token)
    while len(text) < request.max_tokens:
        row = penalised(TABLE[state], request.sampling, list(request.prompt), text)
        token = sample(row, request.sampling, len(text))
        if token == tiny.END:
            return text, log_probs, "end"
        text.append(token)
        log_probs.append(float(TABLE[state, token]))
        state = tiny.next_hash(state, token)
    return text, log_probs, "length"


@given(
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=25).map(tuple),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.6, 2.0]),
        top_k=st.sampled_from([0, 1, 3]),
        top_p=st.sampled_from([0.6, 1.0]),
        seed=st.integers(0, 2**64 - 1),
        repetition_penalty=st.sampled_from([1.0, 1.5]),
        frequency_penalty=st.sampled_from([0.0, 0.7, -0.5]),
        presence_penalty=st.sampled_from([0.0, 0.4]),
    ),
    max_tokens=st.integers(1, 12),
    num_top=st.integers(1, VOCABULARY),
    chunks=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=9),
)
@settings(max_examples=150, deadline=None)
def test_the_text_is_right_however_the_prompt_is_read(
    prompt: tuple[int, ...], sampling: Sampling, max_tokens: int, num_top: int, chunks: list[int]
) -> None:
    request = Generate(1, prompt, sampling, max_tokens)
    task, model = GenerateTask(request, num_top), Model(num_top)
    task.begin((SLOT,), None)
    text, log_probs, number = list[int](), list[float](), 0
    while True:
        # As the scheduler does: a chunk is at most what the task says that it could take.
        length = chunks[number % len(chunks)]
        length = length if length <= task.work.length else 1
        number += 1
        task.take(length)
        events = task.advance(model.run(task, length), 1)
        for event in events:
            if isinstance(event, TokensDecided):
                text += event.tokens
                log_probs += event.log_probs
        if events and isinstance(events[-1], Finished):
            break
        assert number < 60
    assert (text, log_probs, events[-1].value) == expected_text(request)


def test_the_backlog_is_the_prompt_but_for_its_last_token() -> None:
    task = GenerateTask(Generate(1, (2, 4, 5, 6, 7, 8), Sampling(0.0, 0, 1.0, 0), 3), 6)
    task.begin((SLOT,), None)
    model = Model(6)
    assert (task.work.graph, task.work.rows, task.work.length) == ("step", 1, 5)
    for length, left in ((4, 1), (1, 1)):
        task.take(length)
        assert task.outputs == ()
        assert task.advance(model.run(task, length), 1) == ()
        assert task.work.length == left
    task.take(1)
    assert task.outputs == TOP
    assert task.advance(model.run(task, 1), 1)


@pytest.mark.parametrize(
    ("sampling", "outputs"),
    [
        (Sampling(0.0, 0, 1.0, 0), [TOP, TOP, TOP]),
        (Sampling(1.0, 0, 1.0, 0), [("log_probs",)] * 3),
        (Sampling(1.0, 5, 1.0, 0), [TOP, TOP, TOP]),
        (Sampling(1.0, 6, 1.0, 0), [("log_probs",)] * 3),
        # One of the best more for each token that was seen: three of the prompt, then those of the text.
        (Sampling(1.0, 1, 1.0, 0, repetition_penalty=1.5), [TOP, TOP, ("log_probs",)]),
        (Sampling(1.0, 4, 1.0, 0, presence_penalty=0.5), [TOP, TOP, ("log_probs",)]),
        (Sampling(0.0, 0, 1.0, 0, frequency_penalty=-0.1), [("log_probs",)] * 3),
    ],
)
def test_whole_rows_are_asked_for_only_where_the_best_may_not_be_enough(
    sampling: Sampling, outputs: list[tuple[str, ...]]
) -> None:
    task, asked = GenerateTask(Generate(1, (4, 4, 5, 6), sampling, 3), 5), []
    task.begin((SLOT,), None)
    for number in range(6):
        task.take(1)
        if number >= 3:
            asked.append(tuple(task.outputs))
        row = np.full(VOCABULARY, -50.0, np.float32)
        row[8 + number] = 0.0  # a token that the text does not have
        best = np.argsort(-row, kind="stable")[:5]
        arrays: dict[str, npt.NDArray[Any]] = {
            "log_probs": row[None],
            "top_log_probs": row[None, best],
            "top_tokens": best[None],
        }
        task.advance(Outputs({name: arrays[name] for name in task.outputs}, 1), 0)
    assert asked == outputs
