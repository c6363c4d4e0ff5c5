"""Which provider a bundle runs on, and what is said of it.

| provider | CUDA not built in | built in, does not work | too little memory | works |
|---|---|---|---|---|
| cpu | CPU | CPU | CPU | CPU |
| auto | CPU | CPU, a warning | CPU, a warning | CUDA |
| cuda | an error, whatever the bundle | the same | an error of this bundle | CUDA |

A bundle that works on CUDA but for its recurrence, which ONNX Runtime leaves on the CPU, is served with a warning under
auto and refused under cuda (see `service.runtime.placement`). What was measured to be quicker on the CPU comes here as
cpu (see `service.placing`).
"""

import os
from pathlib import Path

from export.manifest import Manifest
from service.runtime.errors import OutOfDeviceMemory, ProviderUnavailable, RunnerError, cause, is_out_of_memory
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import Runner, RunnerConfig

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort


def open_runner(folder: Path, manifest: Manifest, config: RunnerConfig) -> Runner:
    """Open a bundle on the provider that the config asks for.

    Args:
        folder: The bundle.
        manifest: Of it, verified.
        config: How it is to be run.

    Raises:
        ProviderUnavailable: CUDA was insisted on and does not work.
        RunnerError: The graphs are not those of the manifest or cannot be run in place, or CUDA was insisted on and has
            too little memory or leaves the recurrence to the CPU.
        Exception: What ONNX Runtime raises for a file that is no model (its types are many).
    """
    if config.provider == "cpu":
        return Runner(folder, manifest, config, CPU)
    available = ort.get_available_providers()
    if CUDA not in available:
        if config.provider == "cuda":
            got = f"an ONNX Runtime with {', '.join(available)} only; pip install 'carryover[serve-gpu]' brings it"
            raise ProviderUnavailable(CUDA, got)
        return Runner(folder, manifest, config, CPU)
    try:
        return Runner(folder, manifest, config, CUDA)
    except Exception as error:  # a broken driver shows as one of many types
        if config.provider == "cuda":
            if is_out_of_memory(error):
                raise OutOfDeviceMemory(
                    f"provider cuda: expected room on the GPU for the graphs and {config.num_slots} slots, got "
                    f"{cause(error)}; CARRYOVER_NUM_SLOTS and CARRYOVER_NUM_MEMORY_ROWS say how much is taken"
                ) from None
            raise
        warning = _without_cuda(error)
    # Here the error is gone, and with it what its frames held of the GPU.
    return Runner(folder, manifest, config, CPU, (warning,))


def _without_cuda(error: Exception) -> str:
    """What the operator is told where CUDA was wanted and is done without."""
    if isinstance(error, ProviderUnavailable):
        return f"runs on the CPU: {CUDA} is installed but does not work: expected a working one, got {error.got}"
    if is_out_of_memory(error):
        return f"runs on the CPU: the GPU has too little memory for it: {cause(error)}"
    what = "it cannot be run on" if isinstance(error, RunnerError) else "it fails on"
    return f"runs on the CPU: {what} {CUDA}: {cause(error)}"
