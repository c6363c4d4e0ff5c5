"""Which sequences share a run: the batch and backlog families of L0_sequence_batcher and L0_dyna_sequence_batcher.

The model has one runner. It is kept busy while the requests come in, so that what waits when it is free is known; the
histogram of ModelStatistics then says which runs there were. There are slots for four sequences: where the reference
server makes a fifth wait, ours moves an idle state to host memory, and nobody waits.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.system.oip.conftest import some_of
from tests.system.oip.doors import Answer, Arrays, Refusal, Stream, counted, numbers
from tests.system.oip.server import Server, running
from tests.system.oip.watch import histogram, hold, runs_since, until_idle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

MODEL = "accumulator-slow"
WORK = 400.0  # milliseconds or so: much longer than it takes to send the requests of a test
Fresh = Callable[[], int]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One run at a time, of at most four rows, and slots for four sequences."""
    with running(
        some_of(repository, (MODEL, "ragged"), tmp_path_factory.mktemp("some")),
        runners=1,
        num_slots=8,
        max_batch_rows=4,
        max_queue_delay_ms=100_000,
        sequence_idle_timeout_s=1000,
    ) as served:
        yield served
        for model in (MODEL, "ragged"):  # every test ends what it starts
            until_idle(served, model)


@pytest.fixture
def stream(server: Server) -> Iterator[Stream]:
    opened = Stream(server.grpc)
    yield opened
    opened.close()


def together(
    server: Server, stream: Stream, sequences: Mapping[int, Sequence[int]], fresh: Fresh, ends: bool = True
) -> dict[int, int]:
    """Send whole sequences while the runner is busy, check every answer, and give the runs there were by size.

    Args:
        server: Of the stream.
        stream: Where to send them.
        sequences: The values by correlation id. They are sent in turns: the first value of each, the second, ...
        fresh: For the sequence that keeps the runner busy.
        ends: Whether the last request of each says END.
    """
    before = histogram(stream.client, MODEL)
    hold(server, stream, fresh(), WORK)
    for i in range(max(map(len, sequences.values()))):
        for sequence, values in sequences.items():
            if i < len(values):
                stream.send(
                    MODEL,
                    numbers(values[i], 0),
                    request_id=f"{sequence}/{i}",
                    sequence_id=sequence,
                    sequence_start=i == 0,
                    sequence_end=ends and i == len(values) - 1,
                )
    # Refused at once, when all that was sent before has been read: the runner must be busy still.
    stream.send(MODEL, numbers(0, 0), request_id="nothing of a sequence")
    refusal = stream.outcome()
    assert isinstance(refusal, Refusal), f"the runner was free too early: {refusal}"
    told = {}
    for _ in range(1 + sum(map(len, sequences.values()))):
        answer = stream.receive()
        told[answer.id] = counted(answer)
    assert told.pop("held") == (0, 1)
    expected = {}
    for sequence, values in sequences.items():
        for i in range(len(values)):
            expected[f"{sequence}/{i}"] = (sum(values[: i + 1]), i + 1)
    assert told == expected
    runs = runs_since(stream.client, MODEL, before)
    runs[1] -= 1  # the one that kept it busy
    return {rows: count for rows, count in runs.items() if count}


def test_two_sequences_make_runs_of_two(server: Server, stream: Stream, fresh: Fresh) -> None:
    assert together(server, stream, {fresh(): [1, 2, 3, 4], fresh(): [10, 20, 30, 40]}, fresh) == {2: 4}


def test_sequences_of_unequal_lengths_share_runs_as_long_as_they_last(
    server: Server, stream: Stream, fresh: Fresh
) -> None:
    sequences = {fresh(): [1, 3], fresh(): [11, 12, 13, 14], fresh(): [111, 112, 113], fresh(): [1111]}
    assert together(server, stream, sequences, fresh) == {4: 1, 3: 1, 2: 1, 1: 1}


def test_four_sequences_fill_four_runs(server: Server, stream: Stream, fresh: Fresh) -> None:
    sequences = {fresh(): [k, 2 * k, 3 * k, 4 * k] for k in (1, 10, 100, 1000)}
    assert together(server, stream, sequences, fresh) == {4: 4}


def test_more_sequences_than_slots_all_get_on(server: Server, stream: Stream, fresh: Fresh) -> None:
    sequences = {fresh(): [k, k + 1, k + 2] for k in range(6)}
    runs = together(server, stream, sequences, fresh)
    assert sum(rows * count for rows, count in runs.items()) == 18
    assert max(runs) <= 4


def test_those_who_come_later_fill_the_places_of_those_who_end(server: Server, stream: Stream, fresh: Fresh) -> None:
    sequences = {fresh(): [1, 2, 3, 4], fresh(): [5], fresh(): [6], fresh(): [7, 8], fresh(): [9, 10], fresh(): [11]}
    runs = together(server, stream, sequences, fresh)
    assert sum(rows * count for rows, count in runs.items()) == 11
    assert max(runs) == 4


def test_sequences_that_are_not_ended_hold_up_nobody(server: Server, stream: Stream, fresh: Fresh) -> None:
    first = {fresh(): [1, 2] for _ in range(4)}
    second = {fresh(): [3, 4] for _ in range(4)}
    together(server, stream, first, fresh, ends=False)
    assert together(server, stream, second, fresh) == {4: 2}
    for sequence in first:  # still there, wherever their states went meanwhile
        stream.send(MODEL, numbers(10, 0), sequence_id=sequence, sequence_end=True)
        assert counted(stream.receive()) == (13, 3)


def send_all(stream: Stream, sequence: int, values: Sequence[int], ends: bool, mark: str) -> None:
    for i, value in enumerate(values):
        stream.send(
            MODEL,
            numbers(value, 0),
            request_id=f"{mark}{i}",
            sequence_id=sequence,
            sequence_start=i == 0,
            sequence_end=ends and i == len(values) - 1,
        )


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "not ended"])
def test_the_same_id_back_to_back_is_two_sequences(server: Server, stream: Stream, fresh: Fresh, ends: bool) -> None:
    sequence = fresh()
    hold(server, stream, fresh(), WORK)
    send_all(stream, sequence, [1, 2, 3], ends, "a")
    send_all(stream, sequence, [10, 20, 30], True, "b")
    answers = [stream.receive() for _ in range(7)]
    told = [(answer.id, counted(answer)) for answer in answers if answer.id != "held"]
    assert told == [
        ("a0", (1, 1)), ("a1", (3, 2)), ("a2", (6, 3)), ("b0", (10, 1)), ("b1", (30, 2)), ("b2", (60, 3)),
    ]  # fmt: skip
    stream.send(MODEL, numbers(1, 0), sequence_id=sequence)
    assert isinstance(stream.outcome(), Refusal)


def wide(value: int, width: int) -> Arrays:
    """One step of the ragged model: the value so many times."""
    return {"INPUT": np.full((1, width), value, np.int64), "WORK": np.zeros((1, 1), np.float32)}


def ragged(server: Server, stream: Stream, widths: Sequence[int], fresh: Fresh) -> dict[int, int]:
    """Two steps of a sequence of each width at once; gives the runs there were by size."""
    before = histogram(stream.client, "ragged")
    stream.send(
        "ragged", numbers(1, WORK), request_id="held", sequence_id=fresh(), sequence_start=True, sequence_end=True
    )
    expected = {"held": 1}
    for sequence, width in [(fresh(), width) for width in widths]:
        for i in range(2):
            stream.send(
                "ragged",
                wide(5, width),
                request_id=f"{sequence}/{i}",
                sequence_id=sequence,
                sequence_start=i == 0,
                sequence_end=i == 1,
            )
            expected[f"{sequence}/{i}"] = 5 * width * (i + 1)
    answers = [stream.receive() for _ in expected]
    assert {answer.id: int(answer.outputs["OUTPUT"][0, 0]) for answer in answers} == expected
    return runs_since(stream.client, "ragged", before)


def test_steps_of_different_shapes_do_not_share_a_run(server: Server, stream: Stream, fresh: Fresh) -> None:
    runs = ragged(server, stream, [2, 3, 2, 3], fresh)
    assert max(runs) <= 2


def test_a_sequence_may_change_its_shape_from_step_to_step(server: Server, stream: Stream, fresh: Fresh) -> None:
    sequence, total = fresh(), 0
    for i, width in enumerate((3, 1, 7, 2)):
        stream.send("ragged", wide(2, width), sequence_id=sequence, sequence_start=i == 0, sequence_end=i == 3)
        total += 2 * width
        assert stream.receive().outputs["OUTPUT"].tolist() == [[total]]


def test_a_sequence_is_answered_in_its_order(server: Server, stream: Stream, fresh: Fresh) -> None:
    sequence = fresh()
    send_all(stream, sequence, range(1, 201), True, "")
    answers: list[Answer] = [stream.receive() for _ in range(200)]
    assert [answer.id for answer in answers] == [str(i) for i in range(200)]
    assert [counted(answer)[0] for answer in answers] == [i * (i + 1) // 2 for i in range(1, 201)]


def one_life(address: str, seed: int, sequences: Sequence[int]) -> None:
    """Send sequences of random lengths, mixed, on a stream, and check what comes."""
    rng = random.Random(seed)
    stream = Stream(address)
    left = {sequence: [rng.randrange(1000) for _ in range(rng.randrange(1, 12))] for sequence in sequences}
    sums: dict[int, tuple[int, int]] = {}
    expected: list[tuple[str, tuple[int, int]]] = []
    while left:
        sequence = rng.choice(list(left))
        value = left[sequence].pop(0)
        total, index = sums.get(sequence, (0, 0))
        sums[sequence] = (total + value, index + 1)
        expected.append((f"{sequence}/{index}", sums[sequence]))
        stream.send(
            MODEL,
            numbers(value, 0),
            request_id=expected[-1][0],
            sequence_id=sequence,
            sequence_start=index == 0,
            sequence_end=not left[sequence],
        )
        if not left[sequence]:
            del left[sequence]
    answers = [stream.receive() for _ in expected]
    assert {answer.id: counted(answer) for answer in answers} == dict(expected)
    stream.close()


def test_many_sequences_of_many_clients_at_once(server: Server, stream: Stream, fresh: Fresh) -> None:
    with ThreadPoolExecutor(6) as pool:
        lives = [pool.submit(one_life, server.grpc, seed, [fresh() for _ in range(8)]) for seed in range(6)]
        for life in lives:
            life.result()
