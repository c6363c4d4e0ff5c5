"""A language model whose state is one float32."""

from pathlib import Path

from service.runtime.runner import Runner
from tests.service import tiny_models as tiny
from tests.service.engine.harness import open_tiny

TABLE = tiny.make_table()
STATE_BYTES = 4  # one float32


def language_model(folder: Path, num_slots: int = 64) -> Runner:
    return open_tiny(folder, tiny.write_language_model(folder, TABLE), num_slots)
