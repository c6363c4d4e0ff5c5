"""From a runner on one device to runners on all that the settings name."""

import logging
from collections.abc import Sequence
from pathlib import Path

from service.devices.closing import close_runner
from service.runtime.errors import RunnerError
from service.runtime.opening import open_runner
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig

log = logging.getLogger(__name__)


def open_others(folder: Path, first: Runner, configs: Sequence[RunnerConfig]) -> tuple[Runner, ...]:
    """Open a model on further devices, as it was opened on the first one.

    Args:
        folder: The bundle.
        first: Its runner on the first device.
        configs: How to run it on each of the others.

    Returns:
        One a config; none where GPUs were asked for and the first runner is on the CPU, of which there is one.

    Raises:
        RunnerError: A device does not work as the first one does: nobody names a GPU to have it left out.
        Exception: As `open_runner`.
    """
    if configs and first.provider == CPU and configs[0].provider != "cpu":
        log.warning("%s: runs on the CPU, not on %d devices", folder, 1 + len(configs))
        return ()
    opened: list[Runner] = []
    try:
        for config in configs:
            opened.append(open_runner(folder, first.manifest, config))
            if opened[-1].provider != first.provider:
                got = "; ".join(opened[-1].warnings) or opened[-1].provider
                raise RunnerError(f"device {config.device_id}: expected {first.provider} to work there too, got: {got}")
    except BaseException:
        for runner in opened:
            close_runner(runner)
        raise
    return tuple(opened)
