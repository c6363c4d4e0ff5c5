"""The ceiling: the same step graph under raw ONNX Runtime, in process, its pools updated in place."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.tokens import token
from export.bundle import load_manifest
from export.manifest import Manifest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime


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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(bundle / manifest.graphs["step"].file)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        pools = {
            str(state.pool_input): onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((slots, *state.shape), np.float32))
            for state in manifest.states
        }
        (log_probs,) = (output for output in manifest.graphs["step"].outputs if output.name == "log_probs")
        return cls(session, manifest, pools, int(log_probs.shape[1]))

    def run(self, tokens: np.ndarray, read: np.ndarray, write: np.ndarray) -> np.ndarray:
        """Step once; tokens, read and write slots are (B,) int64. Returns the best next token of each row, (B,)."""
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

    def steps_per_s(self, rows: int, seconds: float) -> tuple[float, list[float]]:
        """Run one batch size for a while; returns steps/s (rows times runs) and the run times in ms."""
        slots = np.arange(2, 2 + rows, dtype=np.int64)
        batches = [np.array([token(i, t, self.vocabulary) for i in range(rows)]) for t in range(32)]
        for batch in batches[:3]:
            self.run(batch, slots, slots)
        times: list[float] = []
        begin = time.perf_counter()
        while (now := time.perf_counter()) - begin < seconds:
            self.run(batches[len(times) % 32], slots, slots)
            times.append((time.perf_counter() - now) * 1e3)
        return rows * len(times) / (time.perf_counter() - begin), times

    def answers(self, session: int, steps: int) -> list[int]:
        """The best next token after each step of one session run alone from the initial state."""
        slot, read = np.array([2], np.int64), np.array([0], np.int64)
        best: list[int] = []
        for t in range(steps):
            best.append(int(self.run(np.array([token(session, t, self.vocabulary)]), read, slot)[0]))
            read = slot
        return best
