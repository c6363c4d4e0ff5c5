"""What the graphs are fed, against the layout that docs/architecture.md promises."""

from collections.abc import Mapping, Sequence

import numpy as np

from export.manifest import GraphSpec, TensorSpec
from service.engine.batch import feeds, row_inputs
from service.engine.interface import Decode, Finished, Priority, RunSequence, StepSession
from service.engine.pages import Memory
from service.engine.schedule import WorkItem
from service.engine.session import Session
from service.engine.slots import Slot
from service.engine.tasks.decode import DecodeTask
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.task import Outputs

IDS = np.int64
StepInputs = Mapping[str, Sequence[int] | Sequence[Sequence[int]]]


def spec(**inputs: tuple[str, ...]) -> GraphSpec:
    tensors = tuple(TensorSpec(name=name, dtype="int64", shape=shape) for name, shape in inputs.items())
    return GraphSpec(file="step.onnx", inputs=tensors, outputs=())


def test_row_inputs_are_what_a_request_gives() -> None:
    step = spec(words=("B",), characters=("B", "C"), read_slots=("B",), write_slots=("B",), pool=("N",))
    assert row_inputs(step) == {"words": 1, "characters": 2}
    step = spec(tokens=("B",), source_rows=("B", "S"), source_lengths=("B",), read_slots=("B",), write_slots=("B",))
    assert row_inputs(step) == {"tokens": 1}


def test_sequences_are_padded_with_zeros_and_words_of_one_character() -> None:
    def task(request: int, length: int, width: int) -> SequenceTask:
        inputs = {
            "words": np.arange(1, length + 1, dtype=IDS),
            "characters": np.full((length, width), 9, dtype=IDS),
            "word_lengths": np.full(length, width, dtype=IDS),
        }
        return SequenceTask(RunSequence(request, inputs, length, ()), {})

    got = feeds("sequence", {}, [task(1, 2, 3), task(2, 3, 1)])
    assert got["lengths"].tolist() == [2, 3]
    assert got["words"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert got["word_lengths"].tolist() == [[3, 3, 1], [1, 1, 1]]
    assert got["characters"].tolist() == [[[9, 9, 9], [9, 9, 9], [0, 0, 0]], [[9, 0, 0], [9, 0, 0], [9, 0, 0]]]


def test_a_sequence_costs_the_characters_of_its_longest_word() -> None:
    inputs = {"words": np.zeros(5, dtype=IDS), "characters": np.zeros((5, 12), dtype=IDS)}
    assert SequenceTask(RunSequence(1, inputs, 5, ()), {}).work == WorkItem(1, "sequence", 1, 5, 12)
    assert SequenceTask(RunSequence(1, {"tokens": np.zeros(5, dtype=IDS)}, 5, ()), {}).work.width == 1


def decode(request: int, source: tuple[int, ...], beam_size: int, slots: tuple[int, ...], page: int) -> DecodeTask:
    task = DecodeTask(Decode(request, source, beam_size, 1, 0.6, 9))
    task.begin(tuple(Slot(row, 0) for row in slots), Memory((page,), len(source)))
    return task


def test_sources_are_padded_to_read_the_zero_row_and_to_write_the_scratch_row() -> None:
    tasks = [decode(1, (4, 5, 6), 2, (2, 3), 1), decode(2, (7,), 1, (4,), 2)]
    encode = feeds("encode", {}, tasks)
    assert encode["source"].tolist() == [[4, 5, 6], [7, 0, 0]]
    assert encode["lengths"].tolist() == [3, 1]
    assert encode["source_rows"].tolist() == [[8, 9, 10], [16, 1, 1]]
    assert encode["write_slots"].tolist() == [2, 4]
    for row, task in enumerate(tasks):
        assert task.advance(Outputs({}), row) == ()
    assert [task.work for task in tasks] == [WorkItem(1, "step", 1, 1, 3), WorkItem(2, "step", 1, 1, 1)]
    first = feeds("step", {"tokens": 1}, tasks)
    assert first["tokens"].tolist() == [2, 2]
    assert first["source_rows"].tolist() == [[8, 9, 10], [16, 0, 0]]
    assert first["source_lengths"].tolist() == [3, 1]
    assert (first["read_slots"].tolist(), first["write_slots"].tolist()) == ([2, 4], [2, 4])
    top = {"top_tokens": np.array([[5, 4], [6, 4]]), "top_log_probs": np.array([[-1.0, -2.0], [-1.0, -2.0]])}
    for row, task in enumerate(tasks):
        task.advance(Outputs(top), row)
    second = feeds("step", {"tokens": 1}, tasks)
    assert second["tokens"].tolist() == [5, 4, 6]
    assert second["source_rows"].tolist() == [[8, 9, 10], [8, 9, 10], [16, 0, 0]]  # beams share their source
    assert (second["read_slots"].tolist(), second["write_slots"].tolist()) == ([2, 2, 4], [2, 3, 4])


def session(number: int, row: int, *requests: StepSession) -> Session:
    made = Session(number, 0.0, None, Priority.NORMAL, None, 0)
    made.slot, made.pending = Slot(row, 0), list(requests)
    return made


def test_a_session_starts_from_the_initial_state_and_goes_on_from_its_own() -> None:
    inputs: StepInputs = {"words": [5, 6], "characters": [[1], [2, 3]], "word_lengths": [1, 2]}
    long = session(1, 7, StepSession(11, 1, inputs, 2, 0))
    other_inputs: StepInputs = {"words": [8], "characters": [[4, 4]], "word_lengths": [2]}
    other = session(2, 3, StepSession(12, 2, other_inputs, 1, 0))
    names = {"words": 1, "characters": 2, "word_lengths": 1}
    for each in (long, other):
        each.take(1)
    got = feeds("step", names, [long, other])
    assert got["words"].tolist() == [5, 8]
    assert got["characters"].tolist() == [[1, 0], [4, 4]]
    assert got["word_lengths"].tolist() == [1, 2]
    assert (got["read_slots"].tolist(), got["write_slots"].tolist()) == ([0, 0], [7, 3])
    assert long.advance(Outputs({}), 0) == ()
    long.take(1)
    got = feeds("step", names, [long])
    assert (got["words"].tolist(), got["characters"].tolist(), got["word_lengths"].tolist()) == ([6], [[2, 3]], [2])
    assert (got["read_slots"].tolist(), got["write_slots"].tolist()) == ([7], [7])


def test_a_chunk_takes_inputs_of_several_requests_and_pads_ragged_ones() -> None:
    first = StepSession(11, 1, {"words": [5, 6], "characters": [[1], [2, 3]]}, 2, 0)
    second = StepSession(12, 1, {"words": [7, 8], "characters": [[4, 5, 6], [9]]}, 2, 0)
    third = StepSession(13, 2, {"words": [1, 2, 3], "characters": [[7], [8], [9]]}, 3, 0)
    several, one = session(1, 7, first, second), session(2, 3, third)
    names = {"words": 1, "characters": 2}
    for each in (several, one):
        each.take(3)
    got = feeds("chunk", names, [several, one])
    assert got["words"].tolist() == [[5, 6, 7], [1, 2, 3]]
    assert got["characters"].tolist() == [[[1, 0, 0], [2, 3, 0], [4, 5, 6]], [[7, 0, 0], [8, 0, 0], [9, 0, 0]]]
    [end] = several.advance(Outputs({}), 0)  # the second has a step to go
    assert isinstance(end, Finished) and end.request == 11
    several.take(1)
    assert feeds("step", names, [several])["words"].tolist() == [8]
