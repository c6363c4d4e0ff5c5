"""A graph under plain ONNX Runtime, opened by nobody's settings: what the service says of itself is held against it."""

import os
from pathlib import Path

from service.runtime.driver import load_libraries
from service.runtime.providers import CPU

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime


def open_raw(graph: Path, provider: str, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """Open a graph on a provider, its placement recorded.

    Args:
        graph: Of a bundle.
        provider: Of ONNX Runtime; what it does not run is left to the processor.
        profile: How the file begins into which each run is profiled; None: none is.

    Raises:
        RuntimeError: The provider does not work.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    providers = [provider]
    if provider != CPU:
        load_libraries()
        providers += [CPU]
    session = onnxruntime.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"expected {provider}, got {', '.join(session.get_providers())}")
    return session
