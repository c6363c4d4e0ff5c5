"""The states of all sessions in one process, stepped in batches: what every peer runs behind its own front.

Imported inside the peers' environments, which have NumPy and ONNX Runtime but nothing of ours.
"""

import os
import threading

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime

STATES_END = "_out"


class StateTable:
    """A row for every session; a batch reads its rows, steps once and writes them back.

    Args:
        graph: Path of the graph that `bench.peers.graph` wrote.
        threads: Intra-op threads of ONNX Runtime.
        capacity: Most sessions.
    """

    def __init__(self, graph: str, threads: int, capacity: int = 1024) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._states = {
            value.name: np.zeros((capacity, *value.shape[1:]), np.float32)
            for value in self._session.get_inputs()
            if value.name != "tokens"
        }
        self._outputs = ["top_tokens", "top_log_probs", *(name + STATES_END for name in self._states)]
        self._rows: dict[int, int] = {}
        self._next = np.zeros(capacity, np.int64)  # index of the step that a row's session takes next
        self._lock = threading.Lock()

    def step(self, requests: np.ndarray) -> np.ndarray:
        """Advance sessions by one step each.

        Args:
            requests: (B, 3) int64: session, index of the step (0 starts afresh), token. A session is in it once.

        Returns:
            (B, 2) float32: the best next token (exact below 2^24) and its log-probability.

        Raises:
            ValueError: A step does not follow its session's last, or a session is in the batch twice: order was lost.
        """
        requests = np.asarray(requests, np.int64).reshape(-1, 3)
        sessions, indices, tokens = requests.T
        with self._lock:
            rows = np.array([self._rows.setdefault(session, len(self._rows)) for session in sessions.tolist()])
            if len(set(rows.tolist())) < len(rows):
                raise ValueError(f"sessions {sessions.tolist()}: expected each once")
            wrong = np.flatnonzero((indices != 0) & (indices != self._next[rows]))
            if wrong.size:
                at = wrong[0]
                raise ValueError(f"session {sessions[at]}: expected step {self._next[rows[at]]}, got {indices[at]}")
            fresh = rows[indices == 0]
            inputs = {"tokens": np.ascontiguousarray(tokens)}
            for name, table in self._states.items():
                table[fresh] = 0
                inputs[name] = table[rows]
            best, log_probs, *states = self._session.run(self._outputs, inputs)
            for table, values in zip(self._states.values(), states, strict=True):
                table[rows] = values
            self._next[rows] = indices + 1
        return np.concatenate((best.astype(np.float32), log_probs), axis=1)
