"""Closing a runner, which on a GPU waits for its turn there: a model on several devices is to lose all of them."""

import logging

from service.runtime.errors import first_line
from service.runtime.runner import Runner

log = logging.getLogger(__name__)


def close_runner(runner: Runner) -> None:
    """Close a runner; may take as long as a capture of another model. What keeps it from closing is logged."""
    try:
        runner.close()
    except Exception as error:
        name, version = runner.manifest.name, runner.manifest.version
        log.error("model %s version %d: keeps what it has on a device: %s", name, version, first_line(error))
