"""Opening a graph on a provider of ONNX Runtime."""

import os
from pathlib import Path
from typing import Final, Literal

from service.runtime import scratch
from service.runtime.driver import load_libraries, what_is_missing
from service.runtime.errors import ProviderUnavailable

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Provider = Literal["auto", "cuda", "cpu"]
CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


def available() -> list[str]:
    """Providers that this ONNX Runtime was built with, whether they work here or not."""
    return list(ort.get_available_providers())


def open_session(
    path: Path,
    provider: str,
    threads: int,
    *,
    device_id: int = 0,
    cuda_graphs: bool = False,
    tf32: bool = False,
) -> ort.InferenceSession:
    """Open a graph.

    Args:
        path: The file.
        provider: CPU or CUDA.
        threads: Intra-op threads.
        device_id: Which GPU, counted from 0.
        cuda_graphs: Whether runs may be captured and replayed; ONNX Runtime refuses graphs of which some part runs
            elsewhere.
        tf32: Whether products of float32 may round their factors to ten bits of mantissa.

    Raises:
        ProviderUnavailable: CUDA does not work on this machine.
        Exception: What ONNX Runtime raises for a file that is no model (its types are many).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; on stderr too they would be as many as callers like
    # A thread that spins between batches takes its core from the gRPC side and hurts everybody's p99.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == CPU:
        scratch.share(options)
        return ort.InferenceSession(path, options, providers=[CPU])
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    load_libraries()
    chosen = (provider, cuda_options(device_id, cuda_graphs=cuda_graphs, tf32=tf32))
    try:
        # Otherwise a session that fails goes on with the CPU, in its middle even, and prints that.
        session = ort.InferenceSession(path, options, providers=[chosen, CPU], enable_fallback=0)
    except Exception:
        if missing := what_is_missing():
            raise ProviderUnavailable(f"a working {provider}", missing) from None
        raise
    if session.get_providers()[0] != provider:  # where it does not even load, ONNX Runtime does without in silence
        missing = what_is_missing() or f"an ONNX Runtime that only starts {', '.join(session.get_providers())}"
        raise ProviderUnavailable(f"a working {provider}", missing)
    return session


def cuda_options(device_id: int, *, cuda_graphs: bool, tf32: bool) -> dict[str, str]:
    """Give the options of the CUDA provider, as ONNX Runtime wants them."""
    return {
        "device_id": str(device_id),
        "arena_extend_strategy": "kSameAsRequested",  # batches vary in shape; doubling would waste device memory
        "enable_cuda_graph": str(int(cuda_graphs)),
        "use_tf32": str(int(tf32)),
    }
