"""What can go wrong with a training run.

- ValueError: what the user gave
    - models.data.errors.DataError: the data
    - ConfigError: the config file
    - RunError: the run folder
- ArithmeticError
    - DivergenceError: the loss is no number any more
- Exception
    - Interrupted: stopped by a signal, resumable
"""

from pathlib import Path


class ConfigError(ValueError):
    """A config file is not as expected; one line names the key, what was expected and what was found."""


class RunError(ValueError):
    """A run folder cannot be used as asked."""


class DivergenceError(ArithmeticError):
    """The loss or a gradient became NaN or infinite.

    Args:
        what: Which number.
        step: The optimiser step that had it, from 1.
        value: What it was.
    """

    def __init__(self, what: str, step: int, value: float) -> None:
        super().__init__(
            f"{what} is {value} at step {step}: expected a finite number; lower optimiser.learning_rate or clip_norm, "
            f"or use precision fp32. The last saved state is older than this step"
        )
        self.step = step


class Interrupted(Exception):
    """Training was stopped by a signal, after a whole batch; its state is saved.

    Args:
        signal_name: Such as SIGINT.
        step: Optimiser steps taken.
        run: The run folder.
    """

    def __init__(self, signal_name: str, step: int, run: Path) -> None:
        super().__init__(f"stopped by {signal_name} at step {step}; the same command goes on from there ({run})")
        self.signal_name, self.step, self.run = signal_name, step, run
