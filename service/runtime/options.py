"""Options of single runs."""

import os
from typing import Final

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_NOT_CAPTURED: Final = "-1"


def run_options(graph_id: str = _NOT_CAPTURED) -> ort.RunOptions:
    """Make options of a run, by default of one that is not captured as a CUDA graph.

    On the CPU too the run had better say so: ONNX Runtime's Python asks each run for it, and what is not there is an
    exception, caught, that takes 20 to 100 microseconds.

    Args:
        graph_id: Of the CUDA graph that the run is captured as, or replays.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options
