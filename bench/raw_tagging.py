"""Raw ONNX Runtime on the tagger's sequence graph: what is right, and how fast it goes with like lengths together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.ceiling import open_session, run_side_by_side
from export.bundle import load_manifest
from export.manifest import Manifest
from models.vocabulary import Vocabulary

if TYPE_CHECKING:  # bench.ceiling imports it, with telemetry switched off
    import onnxruntime

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RawTagger:
    """Runs whole sentences with nothing around the runtime.

    Args:
        session: One ONNX Runtime session of the sequence graph, with one thread.
        manifest: The bundle's.
        words: Vocabulary.
        characters: Vocabulary.
        tags: Vocabulary.
    """

    session: "onnxruntime.InferenceSession"
    manifest: Manifest
    words: Vocabulary
    characters: Vocabulary
    tags: Vocabulary

    @classmethod
    def open(cls, bundle: Path) -> "RawTagger":
        """Load the graph of a bundle."""
        manifest = load_manifest(bundle)
        session = open_session(bundle / manifest.graphs["sequence"].file, 1)
        vocabularies = [
            Vocabulary.load(bundle / manifest.tokenizers[role].vocabulary) for role in ("words", "characters", "tags")
        ]
        return cls(session, manifest, *vocabularies)

    def inputs(self, sentences: Sequence[Sequence[str]]) -> Arrays:
        """A batch, padded to its longest: see docs/architecture.md."""
        lengths = np.array([len(sentence) for sentence in sentences])
        longest = max(len(word) for sentence in sentences for word in sentence)
        words = np.zeros((len(sentences), lengths.max()), np.int64)
        characters = np.zeros((*words.shape, longest), np.int64)
        word_lengths = np.ones(words.shape, np.int64)
        for i, sentence in enumerate(sentences):
            words[i, : len(sentence)] = self.words.encode(sentence)
            for t, word in enumerate(sentence):
                characters[i, t, : len(word)] = self.characters.encode(list(word))
                word_lengths[i, t] = len(word)
        arrays: Arrays = {"words": words, "characters": characters, "word_lengths": word_lengths, "lengths": lengths}
        for state in self.manifest.states:
            if state.sequence_input is not None:
                arrays[state.sequence_input] = np.zeros((len(sentences), *state.shape), state.dtype)
        return arrays

    def run(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Emissions, (B, T, K)."""
        return np.asarray(self.session.run(["emissions"], inputs)[0])

    def answer(self, sentence: Sequence[str]) -> list[str]:
        """The tags of one sentence, run alone."""
        return self.tags.decode(self.run(self.inputs([sentence]))[0].argmax(axis=1).tolist())

    def sentences_per_s(self, sentences: Sequence[Sequence[str]], rows: int, seconds: float, runners: int) -> float:
        """Batches of like lengths, made beforehand, by several one-thread runners side by side for a while."""
        ordered = sorted(sentences, key=len)
        batches = [self.inputs(ordered[i : i + rows]) for i in range(0, len(ordered) - rows + 1, rows)]
        if not batches:
            raise ValueError(f"sentences: expected at least {rows}, got {len(sentences)}")
        counts, took = [0] * runners, [0.0] * runners

        def work(runner: int) -> None:
            order = np.random.default_rng(runner).permutation(len(batches))
            self.run(batches[order[0]])
            begin = time.perf_counter()
            # Whole rounds over all batches: a few short ones would count for all.
            while time.perf_counter() - begin < seconds:
                for index in order:
                    self.run(batches[index])
                counts[runner] += rows * len(batches)
            took[runner] = time.perf_counter() - begin

        run_side_by_side(work, runners)
        return sum(count / spent for count, spent in zip(counts, took, strict=True))
