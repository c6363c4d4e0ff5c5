"""The stations of the demo: data, training, quality, parity, answers.

What a station needs to know of an earlier demo is in the run folder's `demo.json`, tied to the weights by their hash: a
second demo then starts at the answers, without loading torch.
"""

import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from carryover.cli.console import make_console
from carryover.cli.errors import CommandError
from carryover.cli.local_server import serving

if TYPE_CHECKING:
    from carryover.client.sync import Client

RECEIPT_FILE = "demo.json"
NUM_ANSWERS = 10


class Receipt(BaseModel):
    """What a demo left.

    Args:
        weights_sha256: Of the run's weights, which the rest is about.
        metrics: Of the test split, as `evaluate` gives them.
        bundle: Name and version that the run was published as.
    """

    weights_sha256: str
    metrics: dict[str, float]
    bundle: tuple[str, int]


class Journey:
    """One demo.

    Args:
        config: Training config of an encoder-decoder on a lexicon.
        run: Run folder, made or reused.
        repository: Model repository, made or reused.
        console: Where to print.
    """

    def __init__(self, config: Path, run: Path, repository: Path, console: Console | None = None) -> None:
        self.config, self.run, self.repository = config, run, repository
        self.console = console or make_console()

    def go(self) -> None:
        """Go the whole road."""
        began = time.monotonic()
        unseen = self._data()
        receipt = self._receipt()
        if receipt is None:
            self._train()
            receipt = self._evaluate_and_export()
        else:
            self._show_again(receipt)
        self._answers(receipt, unseen)
        self._next(receipt.bundle[0], time.monotonic() - began)

    def _heading(self, title: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left")

    def _say(self, line: str) -> None:
        self.console.print(escape(line), soft_wrap=True)

    def _data(self) -> list[tuple[str, tuple[str, ...]]]:
        """Show the split; give the words of the test part with their pronunciations."""
        from models.training.config import load_config
        from models.training.corpus import read_corpus
        from models.training.data_config import CmudictData, GruutData

        loaded = load_config(self.config)
        if not isinstance(loaded.data, CmudictData | GruutData):
            raise CommandError(f"{self.config}: expected data.format gruut or cmudict, got {loaded.data.format}")
        self._heading("1. Data: letters to phonemes, split by word")
        corpus = read_corpus(loaded.data)
        table = Table("split", "words", "pronunciations", box=None, pad_edge=False)
        parts = {name: corpus.pairs(name) for name in corpus.splits}
        for name, pairs in parts.items():
            table.add_row(name, f"{len(pairs):,}", f"{sum(len(pair.targets) for pair in pairs):,}")
        self.console.print(table)
        self._say(f"source: {corpus.record.get('package', loaded.data.format)}; no word is in two parts;")
        self._say(f"the split is fixed by seed {corpus.record.get('split_seed')}. One entry of the training part:")
        example = parts["train"][len(parts["train"]) // 2]
        self._say(f"  {example.source} -> {example.targets[0]}")
        return [(pair.source, pair.targets) for pair in parts["test"]]

    def _receipt(self) -> Receipt | None:
        """What an earlier demo left, if it is still there and about these weights and this config."""
        from export.bundle import BundleError, load_manifest
        from models.training.config import differences, load_config

        try:
            receipt = Receipt.model_validate_json((self.run / RECEIPT_FILE).read_bytes())
            if receipt.weights_sha256 != _sha256(self.run / "weights.safetensors"):
                return None
            if differences(load_config(self.config), load_config(self.run / "config.yaml")):
                return None
            load_manifest(self._bundle(receipt))
        except (OSError, ValidationError, BundleError):
            return None
        return receipt

    def _bundle(self, receipt: Receipt) -> Path:
        name, version = receipt.bundle
        return self.repository / name / str(version)

    def _train(self) -> None:
        from models.training.fit import fit

        self._heading("2. Training")
        fit(self.config, self.run, True, self.console)

    def _evaluate_and_export(self) -> Receipt:
        from carryover.cli.publishing import publish
        from models.training.evaluate import evaluate

        self._heading("3. Quality on words that it never saw, beside the baseline")
        metrics = evaluate(self.run, "test", self.console)
        self._heading("4. Export to ONNX: parity with PyTorch")
        published = publish(self.run, self.repository, "fp32", None, self.console)
        receipt = Receipt(
            weights_sha256=_sha256(self.run / "weights.safetensors"),
            metrics=metrics,
            bundle=(published.manifest.name, published.manifest.version),
        )
        (self.run / RECEIPT_FILE).write_text(receipt.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return receipt

    def _show_again(self, receipt: Receipt) -> None:
        from export.report import PARITY_FILE, ParityReport

        self._heading("2. Training")
        self._say(f"reusing {self.run}: it is finished (remove the folder to train again)")
        self._heading("3. Quality on words that it never saw, beside the baseline (measured after training)")
        self.console.print(_metrics_table(receipt.metrics))
        self._heading("4. Export to ONNX: parity with PyTorch")
        report = ParityReport.model_validate_json((self._bundle(receipt) / PARITY_FILE).read_bytes())
        self._say(f"reusing {self._bundle(receipt)}: {report.verdict()}")

    def _answers(self, receipt: Receipt, unseen: list[tuple[str, tuple[str, ...]]]) -> None:
        from carryover.client.sync import Client

        self._heading(f"5. Answers: {NUM_ANSWERS} unseen words, each phoneme printed as it is decided")
        asked = random.Random(0).sample(unseen, min(NUM_ANSWERS, len(unseen)))
        right = 0
        began = time.monotonic()
        with serving(self.repository) as address, Client(address) as client:
            self._say(f"the service is at {address}, up after {time.monotonic() - began:.1f} s")
            for word, expected in asked:
                right += self._ask(client, receipt.bundle[0], word, expected)
        self._say(f"{right} of {len(asked)} as in the lexicon; the service was stopped by SIGTERM and exited with 0")

    def _ask(self, client: "Client", name: str, word: str, expected: tuple[str, ...]) -> bool:
        self.console.print(Text(f"  {word:<18}", style="bold"), end="")
        stream = client.transduce(name, word)  # the newest version, which is what a service loads
        for token in stream:
            self.console.print(escape(token.text), end="", soft_wrap=True)
        right = stream.result.text in expected
        wanted = "as expected" if right else f"expected: {' or '.join(expected)}"
        self.console.print(Text(f"   {wanted}", style="green" if right else "yellow"), soft_wrap=True)
        return right

    def _next(self, name: str, took_s: float) -> None:
        self._heading(f"Done in {took_s:.0f} s. What to do next")
        self._say(f"  .venv/bin/carryover serve --repository {self.repository}")
        self._say(f"  .venv/bin/carryover call {name} --beam 5 --num-best 3 sesquipedalian    (in another terminal)")
        self._say("  configs/ has the other tasks; README.md tells how to train on your own data")


def _metrics_table(metrics: Mapping[str, float]) -> Table:
    """Put each metric beside the baseline's."""
    table = Table("metric", "model", "baseline", box=None, pad_edge=False)
    for name, value in metrics.items():
        if not name.startswith("baseline/"):
            beside = metrics.get(f"baseline/{name}")
            table.add_row(name, f"{value:.4f}", "" if beside is None else f"{beside:.4f}")
    return table


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
