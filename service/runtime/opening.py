"""Which provider a bundle runs on."""

import os
from pathlib import Path

from export.manifest import Manifest
from service.runtime.errors import ProviderUnavailable, first_line
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import Runner, RunnerConfig

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort


def open_runner(folder: Path, manifest: Manifest, config: RunnerConfig) -> Runner:
    """Open a bundle on the provider that the config asks for.

    Raises:
        ProviderUnavailable: CUDA was insisted on and does not work.
        RunnerError: The graphs are not those of the manifest or cannot be run in place.
        Exception: What ONNX Runtime raises for a file that is no model (its types are many).
    """
    if config.provider == "cpu":
        return Runner(folder, manifest, config, CPU)
    if CUDA not in ort.get_available_providers():
        if config.provider == "cuda":
            available = ", ".join(ort.get_available_providers())
            raise ProviderUnavailable(f"provider cuda: expected {CUDA}, got an ONNX Runtime with {available} only")
        return Runner(folder, manifest, config, CPU)
    try:
        return Runner(folder, manifest, config, CUDA)
    except Exception as error:  # a broken driver shows as one of many types
        if config.provider == "cuda":
            raise
        warning = f"runs on the CPU: {CUDA} is installed but does not work: {first_line(error)}"
        return Runner(folder, manifest, config, CPU, (warning,))
