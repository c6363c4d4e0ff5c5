"""The same seed gives the same text, to the bit, whoever is in the batch: real graphs in the real engine."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from export.emit.emit import emit
from export.manifest import GraphKind, Precision
from models.config import Cell, LanguageModelConfig
from service.engine.cost import Costs, RowCost
from service.engine.engine import Engine
from service.engine.interface import Event, Failed, Finished, Generate, Sampling, TokensDecided
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from service.runtime.runner import Runner
from tests.export.emit.models import tiny
from tests.service.measuring.test_invariance import open_emitted

Text = tuple[tuple[int, ...], tuple[float, ...], object]  # tokens, log-probabilities, why it ended
VOCABULARY = 40
PATIENCE_S = 60.0


class Collector:
    """Takes events; a wait is for a condition."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[list[int], list[float]]] = {}
        self._ends: dict[int, object] = {}
        self._changed = threading.Condition()

    def publish(self, events: Sequence[Event]) -> None:
        with self._changed:
            for event in events:
                assert not isinstance(event, Failed), event
                if isinstance(event, TokensDecided):
                    tokens, log_probs = self._texts.setdefault(event.request, ([], []))
                    tokens += event.tokens
                    log_probs += event.log_probs
                elif isinstance(event, Finished):
                    self._ends[event.request] = event.value
            self._changed.notify_all()

    def wait(self, request: int) -> Text:
        with self._changed:
            assert self._changed.wait_for(lambda: request in self._ends, PATIENCE_S)
            tokens, log_probs = self._texts.get(request, ([], []))
            return tuple(tokens), tuple(log_probs), self._ends[request]


def random_requests(rng: random.Random, count: int) -> list[Generate]:
    requests = []
    for number in range(count):
        sampling = Sampling(
            temperature=rng.choice([0.0, 0.5, 1.0, 3.0]),
            top_k=rng.choice([0, 3, 10]),
            top_p=rng.choice([1.0, 0.8]),
            seed=rng.getrandbits(64),
            repetition_penalty=rng.choice([1.0, 1.0, 1.4]),
            frequency_penalty=rng.choice([0.0, 0.0, 0.6, -0.3]),
            presence_penalty=rng.choice([0.0, 0.0, 0.5]),
        )
        prompt = (2, *(rng.randrange(4, VOCABULARY) for _ in range(rng.choice([0, 1, 3, 8, 21, 40]))))
        requests.append(Generate(number, prompt, sampling, rng.randint(1, 24)))
    return requests


def texts(runner: Runner, requests: Sequence[Generate], together: bool, batch: ScheduleLimits) -> dict[int, Text]:
    """What the engine gives for each, one after the other or all at once on two runners."""
    collector = Collector()
    limits = EngineLimits(session_slots=0, max_sessions=0, batch=batch)
    engine = Engine(runner, limits, collector.publish, num_runners=2)
    engine.start()
    try:
        if not together:
            answers = {}
            for request in requests:
                engine.submit(request)
                answers[request.id] = collector.wait(request.id)
            return answers
        for request in requests:
            engine.submit(request)
        return {request.id: collector.wait(request.id) for request in requests}
    finally:
        engine.close()
        engine.check_integrity()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_same_seed_gives_the_same_text_in_any_batch(tmp_path: Path, cell: Cell, precision: Precision) -> None:
    runner = open_emitted(tmp_path, emit(tiny(LanguageModelConfig(cell=cell, dim=12, hidden=33)), precision), 64)
    kinds, run = set[GraphKind](), runner.run

    def watched(kind: GraphKind, *args: Any) -> dict[str, Any]:
        kinds.add(kind)
        return run(kind, *args)

    runner.run = watched  # type: ignore[method-assign, assignment]
    requests = random_requests(random.Random(cell + precision), 60)
    alone = texts(runner, requests, together=False, batch=ScheduleLimits(max_chunk=1))
    assert len({text[0] for text in alone.values()}) > 30
    assert kinds == {"step"}
    # Chunks cost no more than steps: they are taken wherever there is a backlog.
    costs = Costs(steps={steps: RowCost({1: 1e-3}) for steps in (1, 2, 4, 8, 16)})
    companies = [
        ScheduleLimits(max_rows=64, max_chunk=1),
        ScheduleLimits(max_rows=5, min_rows=1, max_chunk=4, costs=costs),
        ScheduleLimits(max_rows=64, max_chunk=16, costs=costs),
    ]
    for number, batch in enumerate(companies):
        shuffled = random.Random(number).sample(requests, len(requests))
        assert texts(runner, shuffled, together=True, batch=batch) == alone
    assert kinds == {"step", "chunk"}
