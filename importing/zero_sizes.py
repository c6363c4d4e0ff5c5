"""Whether a model takes tensors without elements, seen in a process of its own.

Some kernels of the runtime do not come back from them, and take the process along: its GRU does, of no time steps.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from export.manifest import GraphSpec, storage

_MOST_S: Final = 30.0
_SLOTS: Final = 4
# Run in a fresh interpreter: arguments are the file and, as JSON, name, type and shape of each input.
_RUN: Final = """
import json, sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = ort.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
for feeds in json.loads(sys.argv[2]):
    values = {}
    for name, dtype, carried, shape, value in feeds:
        array = np.full(shape, "" if dtype == "string" else value, dtype=carried)
        values[name] = (
            ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, 16) if dtype == "bfloat16"
            else array if dtype == "string" else ort.OrtValue.ortvalue_from_numpy(array)
        )
    if any(isinstance(value, np.ndarray) for value in values.values()):
        session.run(None, {name: getattr(value, "numpy", lambda: value)() for name, value in values.items()})
    else:
        session.run_with_ort_values([output.name for output in session.get_outputs()], values)
"""


def takes_zero_sizes(file: Path, graph: GraphSpec, examples: dict[str, int], shared: dict[str, float]) -> bool:
    """Whether each free size of a request may be 0, the others as in the examples, and all of them at once.

    Args:
        file: The rewritten model.
        graph: What it takes.
        examples: By symbol, a size that works.
        shared: By input that all rows share, a value that works.
    """
    symbols = sorted({d for t in graph.inputs for d in t.shape if isinstance(d, str)} - {"B", "N"})
    if not symbols:
        return True
    cases = [{symbol} for symbol in symbols] + ([set(symbols)] if len(symbols) > 1 else [])
    feeds = [
        [
            (
                tensor.name,
                tensor.dtype,
                storage(tensor.dtype),
                [
                    size if isinstance(size, int)
                    else {"B": 1, "N": _SLOTS}.get(size) or (0 if size in case else examples.get(size, 1))
                    for size in tensor.shape
                ],
                1 if tensor.name == "write_slots" else shared.get(tensor.name, 0),
            )
            for tensor in graph.inputs
        ]
        for case in cases
    ]  # fmt: skip
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-I", "-c", _RUN, str(file), json.dumps(feeds)]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_MOST_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
