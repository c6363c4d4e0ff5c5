"""The learning rate as a multiple of its peak: a pure function of how far the run is.

Sources: linear warmup and inverse square root, Vaswani et al. 2017, section 5.3 (here the peak is given and reached at
the end of the warmup); cosine, Loshchilov and Hutter 2017, eq. 5, without restarts.
"""

import math

from models.training.config import LimitsConfig, ScheduleConfig
from models.training.progress import Progress


def total_steps(limits: LimitsConfig, batches_per_epoch: int) -> int | None:
    """How many steps the limits on epochs and steps allow; None where time is the only limit."""
    allowed = [] if limits.steps is None else [limits.steps]
    if limits.epochs is not None:
        allowed.append(limits.epochs * batches_per_epoch)
    return min(allowed, default=None)


def multiplier(schedule: ScheduleConfig, limits: LimitsConfig, progress: Progress, steps: int | None) -> float:
    """Give the factor on the peak learning rate for the next step.

    Args:
        schedule: Its kind and parameters.
        limits: For the time budget, if the schedule follows it.
        progress: Steps taken, seconds gone by.
        steps: Steps of the whole run; None where only time limits it.

    Returns:
        A number in [0, 1].
    """
    step = progress.position.step
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "plateau":
        return progress.rate_factor
    if schedule.name == "inverse_sqrt":
        return math.sqrt(max(1, schedule.warmup_steps) / (step + 1))
    done = 0.0 if steps is None else (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    if schedule.follow_time and limits.max_minutes is not None:
        done = max(done, progress.elapsed_s / (60 * limits.max_minutes))
    done = min(done, 1.0)
    shape = 1 - done if schedule.name == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.final + (1 - schedule.final) * shape
