"""The callback that keeps a run: time, evaluation results, best weights, saved state, signals, the end."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from models.training.checkpoint import save_weights
from models.training.config import RunConfig
from models.training.errors import Interrupted
from models.training.module import TrainingModule
from models.training.scorer import is_better
from models.training.state import FILE, restore_state, save_state

_SAVE_EVERY_S = 300.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Keeper(pl.Callback):
    """Keeps a run resumable, and ends it.

    Args:
        run: The run folder.
        config: The run's config.
        handle_signals: Whether SIGINT and SIGTERM are waited for (only a main thread can).
    """

    def __init__(self, run: Path, config: RunConfig, handle_signals: bool) -> None:
        self._run, self._config = run, config
        self.state: dict[str, object] | None = None
        """A saved state to go on from."""
        self._handle_signals = handle_signals
        self._handlers: dict[signal.Signals, Any] = {}
        self._signal: signal.Signals | None = None
        self._clock = self._saved_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the saved state and listen for signals."""
        module = _ours(pl_module)
        if self.state is not None:
            restore_state(self.state, module, trainer)
            self.state = None
        if self._handle_signals:
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        self._clock = self._saved_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Move the position on; stop here if a signal came, unless an evaluation is due (it then stops after that).

        Raises:
            Interrupted: After saving the state.
        """
        module = _ours(pl_module)
        module.progress.advance(module.data)
        self._count_time(trainer, module)
        limits, every = self._config.limits, self._config.evaluation.every_steps
        if module.progress.position.ends_round(limits, every):
            return
        if self._anywhere(trainer, self._signal is not None):
            self._save(trainer, module)
            self._interrupt(module)
        elif self._anywhere(trainer, time.monotonic() - self._saved_at > _SAVE_EVERY_S):
            self._save(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are the best, decide whether training ends, save the state.

        Raises:
            Interrupted: After saving the state, if a signal came.
        """
        module = _ours(pl_module)
        self._count_time(trainer, module)
        self._judge(trainer, module, module.dev_metrics)
        module.progress.stopped = self._reason(trainer, module)
        trainer.should_stop = module.progress.stopped is not None
        self._save(trainer, module)
        if self._anywhere(trainer, self._signal is not None) and not trainer.should_stop:
            self._interrupt(module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def _judge(self, trainer: pl.Trainer, module: TrainingModule, metrics: Mapping[str, float]) -> None:
        progress, name = module.progress, self._config.evaluation.best
        progress.evaluations += 1
        if is_better(name, metrics[name], progress.best):
            progress.best, progress.best_step, progress.stale = metrics[name], progress.position.step, 0
            if trainer.is_global_zero:
                save_weights(module.model, self._run)
            return
        progress.stale += 1
        if self._config.schedule.name == "plateau" and progress.stale % self._config.schedule.patience == 0:
            progress.rate_factor *= self._config.schedule.factor

    def _reason(self, trainer: pl.Trainer, module: TrainingModule) -> str | None:
        """Why training ends now, if it does."""
        limits, progress = self._config.limits, module.progress
        position = progress.position
        if limits.epochs is not None and position.epoch >= limits.epochs:
            return f"{position.epoch} epochs done"
        if limits.steps is not None and position.step >= limits.steps:
            return f"{position.step} steps done"
        if limits.patience is not None and progress.stale >= limits.patience:
            return f"no better {self._config.evaluation.best} for {progress.stale} evaluations"
        if progress.out_of_time(limits):
            return f"the budget of {limits.max_minutes:g} minutes is spent"
        return None

    def _count_time(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        now = time.monotonic()
        elapsed = module.progress.elapsed_s + now - self._clock
        # All processes go by one clock, or they would not stop at the same step.
        module.progress.elapsed_s = trainer.strategy.broadcast(elapsed) if trainer.world_size > 1 else elapsed
        self._clock = now

    def _save(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        save_state(self._run / "training" / FILE, module, trainer)
        self._saved_at = time.monotonic()

    def _interrupt(self, module: TrainingModule) -> None:
        name = self._signal.name if self._signal is not None else "a signal to another process"
        raise Interrupted(name, module.progress.position.step, self._run)

    def _anywhere(self, trainer: pl.Trainer, here: bool) -> bool:
        """Whether it is so in any process; all must take the same turn."""
        return bool(trainer.strategy.reduce_boolean_decision(here, all=False)) if trainer.world_size > 1 else here

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            # Asked twice: do not wait for the batch.
            self._release()
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _ours(module: pl.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
