"""Several devices: processes that Lightning starts share the batches and stay in step."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.training.checkpoint import load
from models.training.config import load_config
from models.training.corpus import read_corpus
from models.training.task import make_task
from models.training.tokenizers import build_tokenizers

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from models.training.fit import fit

if __name__ == "__main__":
    fit(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(write_config: Callable[..., Path], tmp_path: Path) -> None:
    path = write_config("encoder_decoder", devices=2, accelerator="cpu", limits={"epochs": 2})
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", path, tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = load_config(path)
    corpus = read_corpus(config.data)
    batches = make_task(config, corpus, build_tokenizers(config, corpus)).training_data()
    steps = sum(-(-batches.num_batches(epoch) // 2) for epoch in range(2))
    assert len(re.findall("training ended: 2 epochs done", done.stdout)) == 1
    one, two = (
        torch.load(tmp_path / "run" / "training" / name, weights_only=True) for name in ("last.ckpt", "last-1.ckpt")
    )
    assert one["progress"]["position"]["step"] == two["progress"]["position"]["step"] == steps
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert load(tmp_path / "run").metrics["dev/loss"] > 0
