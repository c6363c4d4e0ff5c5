"""The ceiling: the same step graph under raw ONNX Runtime, in process, its pools updated in place.

As many one-thread runners as cores step one shared pool side by side, each with its own rows; nothing is around them.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.tokens import token
from export.bundle import load_manifest
from export.manifest import Manifest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime

BATCHES = 32  # different batches of tokens that a measurement goes round


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU with that many intra-op threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Ceiling:
    """Steps a bundle's language model with nothing around the runtime.

    Args:
        session: One ONNX Runtime session of the step graph.
        manifest: The bundle's.
        pools: State pools by graph input name, (slots, ...).
        vocabulary: Number of token ids.
    """

    session: onnxruntime.InferenceSession
    manifest: Manifest
    pools: dict[str, onnxruntime.OrtValue]
    vocabulary: int

    @classmethod
    def open(cls, bundle: Path, threads: int, slots: int) -> "Ceiling":
        """Load the step graph of a bundle with that many intra-op threads and zeroed pools."""
        manifest = load_manifest(bundle)
        session = open_session(bundle / manifest.graphs["step"].file, threads)
        pools = {
            str(state.pool_input): onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((slots, *state.shape), np.float32))
            for state in manifest.states
        }
        (log_probs,) = (output for output in manifest.graphs["step"].outputs if output.name == "log_probs")
        return cls(session, manifest, pools, int(log_probs.shape[1]))

    def run(self, tokens: np.ndarray, read: np.ndarray, write: np.ndarray) -> np.ndarray:
        """Step once; tokens, read and write slots are (B,) int64. Returns the best next token of each row, (B,).

        Threads may run side by side as long as their slots differ.
        """
        io = self.session.io_binding()
        io.bind_cpu_input("tokens", tokens)
        io.bind_cpu_input("read_slots", read)
        io.bind_cpu_input("write_slots", write)
        for state in self.manifest.states:
            pool = self.pools[str(state.pool_input)]
            io.bind_ortvalue_input(str(state.pool_input), pool)
            io.bind_ortvalue_output(str(state.pool_output), pool)
        io.bind_output("top_tokens", "cpu")
        self.session.run_with_iobinding(io)
        return np.asarray(io.get_outputs()[-1].numpy()[:, 0])

    def steps_per_s(self, rows: int, seconds: float, runners: int = 1) -> tuple[float, list[float]]:
        """Run one batch size for a while; returns steps/s of all runners and the run times in ms.

        Args:
            rows: B of every run. The pools need 2 + rows * runners slots.
            seconds: For how long.
            runners: How many threads run side by side.
        """
        times: list[list[float]] = [[] for _ in range(runners)]
        took = [0.0] * runners

        def work(runner: int) -> None:
            slots = np.arange(2 + runner * rows, 2 + (runner + 1) * rows, dtype=np.int64)
            batches = [np.array([token(int(i), t, self.vocabulary) for i in slots]) for t in range(BATCHES)]
            for batch in batches[:3]:
                self.run(batch, slots, slots)
            start.wait()
            begin = time.perf_counter()
            while (now := time.perf_counter()) - begin < seconds:
                self.run(batches[len(times[runner]) % BATCHES], slots, slots)
                times[runner].append((time.perf_counter() - now) * 1e3)
            took[runner] = time.perf_counter() - begin

        start = threading.Barrier(runners)
        run_side_by_side(work, runners)
        rate = sum(rows * len(mine) / spent for mine, spent in zip(times, took, strict=True))
        return rate, [one for mine in times for one in mine]

    def answers(self, session: int, steps: int) -> list[int]:
        """The best next token after each step of one session run alone from the initial state."""
        return self.answers_to([token(session, t, self.vocabulary) for t in range(steps)])

    def answers_to(self, inputs: Sequence[int]) -> list[int]:
        """The best next token after each input, run alone (B=1) from the initial state."""
        slot, read = np.array([2], np.int64), np.array([0], np.int64)
        best: list[int] = []
        for given in inputs:
            best.append(int(self.run(np.array([given]), read, slot)[0]))
            read = slot
        return best


def run_side_by_side(work: Callable[[int], None], runners: int) -> None:
    """Call `work` with 0 .. runners - 1, each in its thread; what one raises is raised.

    One runs in the calling thread if it is the only one.
    """
    if runners == 1:
        work(0)
        return
    failures: list[BaseException] = []

    def guarded(runner: int) -> None:
        try:
            work(runner)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(runner,)) for runner in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
