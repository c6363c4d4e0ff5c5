"""What is right: each session run alone by raw ONNX Runtime, one step at a time."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.tokens import token

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime

TOLERANCE = 1e-4  # of a log-probability: batches round differently in fp32
BLOCK = 64  # a session is followed this many steps further at a time


class RightAnswers:
    """The best next token of each session after each step, and its log-probability.

    Args:
        graph: What `bench.peers.graph` wrote.
        cache: Folder to keep the answers in; they take a minute.
    """

    def __init__(self, graph: Path, cache: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: value.shape for value in self._session.get_inputs() if value.name != "tokens"}
        (log_probs,) = (value for value in self._session.get_outputs() if value.name == "log_probs")
        self.vocabulary = int(log_probs.shape[1])
        digest = hashlib.sha256(graph.read_bytes()).hexdigest()[:16]
        self._file = cache / f"answers-{digest}.npz" if cache else None
        self._known: dict[int, np.ndarray] = {}  # session -> (steps, 2): token, log-probability
        if self._file and self._file.exists():
            with np.load(self._file) as known:
                self._known = {int(name): known[name] for name in known.files}

    def of(self, session: int, steps: int) -> np.ndarray:
        """The first steps of a session, (steps, 2) float32: token and log-probability."""
        if steps > len(self._known.get(session, ())):
            enough = -(-steps // BLOCK) * BLOCK
            self._known[session] = np.array(
                [self._best(values) for values in self._follow(session, enough)], np.float32
            )
        return self._known[session][:steps]

    def save(self) -> None:
        """Keep what is known for the next time."""
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            made = self._file.with_suffix(f".{os.getpid()}.npz")
            np.savez(made, **{str(session): values for session, values in self._known.items()})  # type: ignore[arg-type]
            made.replace(self._file)

    def check(self, session: int, steps: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray | None) -> str | None:
        """Compare answers with what is right.

        Another token than ours is right too where both are equally probable within the tolerance.

        Args:
            session: Whose.
            steps: (n,) int64, indices of the steps.
            tokens: (n,) int64, the best next token of each.
            log_probs: (n,) float32, its log-probability, where it was told.

        Returns:
            What is wrong with the first that is wrong, or None.
        """
        if not steps.size:
            return None
        right = self.of(session, int(steps.max()) + 1)[steps]
        wrong = tokens != right[:, 0]
        if log_probs is not None:
            wrong = wrong | ~(np.abs(log_probs - right[:, 1]) <= TOLERANCE)
        for at in np.flatnonzero(wrong):
            *_, values = self._follow(session, int(steps[at]) + 1)
            told = f"token {tokens[at]}"
            close = 0 <= tokens[at] < self.vocabulary and values.max() - values[tokens[at]] <= TOLERANCE
            if log_probs is not None:
                told += f" at {log_probs[at]:.5f}"
                close = close and abs(log_probs[at] - right[at, 1]) <= TOLERANCE
            if not close:
                expected = f"token {right[at, 0]:.0f} at {right[at, 1]:.5f}"
                return f"session {session} step {steps[at]}: expected {expected}, got {told}"
        return None

    def _follow(self, session: int, steps: int) -> Iterator[np.ndarray]:
        """The log-probabilities (V,) after each step."""
        states = {name: np.zeros((1, *shape[1:]), np.float32) for name, shape in self._inputs.items()}
        outputs = ["log_probs", *(f"{name}_out" for name in states)]
        for step in range(steps):
            tokens = np.array([token(session, step, self.vocabulary)], np.int64)
            log_probs, *values = self._session.run(outputs, {"tokens": tokens, **states})
            states = dict(zip(states, values, strict=True))
            yield log_probs[0]

    @staticmethod
    def _best(values: np.ndarray) -> tuple[float, float]:
        best = int(values.argmax())
        return best, float(values[best])
