"""Where a model runs if the settings leave it open and it was measured: `carryover bench crossover` writes, this reads.

The rule and its reasons: docs/adr/0010-placement-by-measurement.md.
"""

import logging
from dataclasses import replace
from pathlib import Path

from export.manifest import Manifest
from service.engine.slots import NUM_RESERVED
from service.measuring.crossover import host_of, load
from service.runtime.driver import name_of_gpu
from service.runtime.runner import RunnerConfig

log = logging.getLogger(__name__)


def place(folder: Path, manifest: Manifest, config: RunnerConfig, max_batch_rows: int = 0) -> RunnerConfig:
    """Choose the CPU for a model that was measured to do at least as much there as on the GPU.

    Args:
        folder: The bundle.
        manifest: Of it, verified.
        config: How it is to be run.
        max_batch_rows: Rows of a run that the settings allow; 0: as many as there are slots.

    Returns:
        The config, on the CPU where that was measured to be better and the config has no wish.
    """
    if config.provider != "auto" or (gpu := name_of_gpu(config.device_id)) is None:
        return config
    measured = load(folder, manifest, host_of(config, gpu))
    most = config.num_slots - NUM_RESERVED
    taken = manifest.imported.max_rows if manifest.imported is not None else None
    best = None if measured is None else measured.best(min(max_batch_rows or most, taken or most, most))
    if best is None:
        return config
    log.info(
        "model %s version %d: by measurement %.0f rows/s on the CPU and %.0f on %s: runs on the %s",
        manifest.name,
        manifest.version,
        best.cpu,
        best.cuda,
        gpu,
        "CPU" if best.on_cpu else "GPU",
    )
    return replace(config, provider="cpu") if best.on_cpu else config
