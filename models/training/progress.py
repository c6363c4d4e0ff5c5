"""How far a run has come. Everything here is in the saved state."""

from dataclasses import dataclass, replace

from models.training.batches import TrainingData
from models.training.config import LimitsConfig


@dataclass(frozen=True)
class Position:
    """Where in the stream of batches a run is.

    Args:
        epoch: Epochs done.
        batch: Batches done of the present epoch.
        step: Batches done in all, which is optimiser steps.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0

    def after(self, num_batches: int) -> "Position":
        """The position one batch on, in an epoch of `num_batches`."""
        if self.batch + 1 >= num_batches:
            return Position(self.epoch + 1, 0, self.step + 1)
        return Position(self.epoch, self.batch + 1, self.step + 1)

    def at_limit(self, limits: LimitsConfig) -> bool:
        """Whether the limits on epochs or steps are reached."""
        return (limits.epochs is not None and self.epoch >= limits.epochs) or (
            limits.steps is not None and self.step >= limits.steps
        )

    def ends_round(self, limits: LimitsConfig, every_steps: int | None) -> bool:
        """Whether an evaluation is due here: a round of training is what lies between two evaluations."""
        due = self.batch == 0 if every_steps is None else self.step % every_steps == 0
        return due or self.at_limit(limits)


@dataclass
class Progress:
    """What a run has done so far.

    Args:
        position: In the stream of batches.
        elapsed_s: Seconds of training, evaluations included, resumes added up.
        evaluations: How many there were.
        best: Best value of the metric that chooses.
        best_step: The step that had it.
        stale: Evaluations since then.
        rate_factor: What the plateau schedule has come down to.
        stopped: Why training ended; None while it has not.
    """

    position: Position = Position()
    elapsed_s: float = 0.0
    evaluations: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    rate_factor: float = 1.0
    stopped: str | None = None

    def advance(self, data: TrainingData) -> None:
        """Count one batch as done."""
        self.position = self.position.after(data.num_batches(self.position.epoch))

    def out_of_time(self, limits: LimitsConfig) -> bool:
        """Whether the time budget is spent."""
        return limits.max_minutes is not None and self.elapsed_s >= 60 * limits.max_minutes

    def saved(self) -> dict[str, object]:
        """As plain numbers, for the state file."""
        content = {key: value for key, value in vars(self).items() if key != "position"}
        return content | {"position": vars(self.position)}

    def restore(self, content: dict[str, object]) -> None:
        """Take over what `saved` gave.

        Raises:
            ValueError: The keys are not those of a Progress.
        """
        if set(content) != set(vars(self)):
            raise ValueError(f"progress: expected the keys {sorted(vars(self))}, got {sorted(content)}")
        position = content["position"]
        assert isinstance(position, dict)
        vars(self).update(content | {"position": replace(Position(), **position)})
