"""The engine on models whose every answer plain Python knows."""

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engine.interface import Decode
from tests.service import tiny_models as tiny
from tests.service.engine.harness import open_tiny, running

TABLE = tiny.make_table()


def greedy(source: tuple[int, ...], max_tokens: int, table: npt.NDArray[np.float32] = TABLE) -> list[int]:
    state, token, answer = tiny.source_hash(source), 2, list[int]()
    while len(answer) < max_tokens:
        state = tiny.next_hash(state, token, sum(source))
        token = int(table[state].argmax())
        if token == tiny.END:
            break
        answer.append(token)
    return answer


def test_greedy_decodes_of_many_lengths_at_once_are_right(tmp_path: Path) -> None:
    rng = random.Random(1)
    sources = [tuple(rng.randrange(4, 7) for _ in range(rng.randint(1, 30))) for _ in range(100)]
    with running(open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))) as engine:
        ids = [engine.submit(Decode(engine.new_id(), source, 1, 1, 0.6, 20)) for source in sources]
        for request, source in zip(ids, sources, strict=True):
            assert list(engine.best(request).tokens) == greedy(source, 20) == engine.decided(request)


def test_a_session_keeps_its_state_from_request_to_request(tmp_path: Path) -> None:
    with running(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))) as engine:
        states = {1: 0, 2: 0}
        for session in states:
            engine.open(session)
        for tokens in ([4], [5, 6], [4, 4, 4, 6]):
            for session in states:
                expected = []
                for token in tokens:
                    states[session] = tiny.next_hash(states[session], token + session % 2)
                    expected.append([int(TABLE[states[session]].argmax())])
                assert engine.steps(session, [t + session % 2 for t in tokens]).tolist() == expected
        assert [engine.close(session) for session in states] == [7, 7]
