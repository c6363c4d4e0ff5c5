"""How training tells what it does: a bar on a terminal, plain lines elsewhere."""

import time

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from models.training.config import RunConfig
from models.training.module import TrainingModule
from models.training.progress import Progress as RunProgress

_LINE_EVERY_S, _BAR_EVERY_S = 15.0, 0.5


class Report(pl.Callback):
    """Shows step, rate, loss, metric and time left, and logs them for TensorBoard.

    Args:
        console: Where to.
        config: The run's config.
    """

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console, self._config = console, config
        self._steps: int | None = None
        self._bar: Progress | None = None
        self._shown = time.monotonic()
        self._shown_step = 0
        self._loss_sum: Tensor | None = None
        self._losses = 0
        self._rate = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        module = _ours(pl_module)
        self._shown = time.monotonic()
        self._shown_step = module.progress.position.step
        self._steps = module.steps
        if not trainer.is_global_zero:
            self._console = Console(quiet=True)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), console=self._console
            )
            self._bar.add_task("training", total=1.0, said="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Show and log, now and then."""
        module = _ours(pl_module)
        assert module.last_loss is not None
        self._loss_sum = module.last_loss if self._loss_sum is None else self._loss_sum + module.last_loss
        self._losses += 1
        step = module.progress.position.step
        if step % self._config.log_every_steps == 0 and module.logger is not None:
            numbers = {"train/loss": float(module.last_loss), "train/learning_rate": module.rate()}
            if module.last_norm is not None:
                numbers["train/gradient_norm"] = float(module.last_norm)
            module.logger.log_metrics(numbers, step=step)
        if time.monotonic() - self._shown >= (_BAR_EVERY_S if self._bar else _LINE_EVERY_S):
            self._show(module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how the evaluation went."""
        module = _ours(pl_module)
        progress = module.progress
        if module.logger is not None:
            named = {f"dev/{name}": value for name, value in module.dev_metrics.items()}
            module.logger.log_metrics(named, step=progress.position.step)
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in module.dev_metrics.items())
        best = " (best so far)" if progress.best_step == progress.position.step else ""
        said = f"step {progress.position.step}  dev: {numbers}{best}"
        self._console.print(said, highlight=False, soft_wrap=True)
        # The rate is that of training: the time of an evaluation does not count.
        self._shown, self._shown_step = time.monotonic(), progress.position.step
        self._loss_sum, self._losses = None, 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, module: TrainingModule) -> None:
        progress, now = module.progress, time.monotonic()
        step = progress.position.step
        if step > self._shown_step:
            self._rate = (step - self._shown_step) / (now - self._shown)
        self._shown, self._shown_step = now, step
        done = self._done(progress)
        loss = float(self._loss_sum) / self._losses if self._loss_sum is not None else float("nan")
        name = self._config.evaluation.best
        metric = "" if progress.best is None else f"  best {name} {progress.best:.4g}"
        said = (
            f"step {step}{f'/{self._steps}' if self._steps else ''}  {self._rate:.1f} steps/s  loss {loss:.3f}{metric}"
        )
        left = self._left(progress, done)
        said += f"  {left} left" if left else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, said=said)
        else:
            self._console.print(said, highlight=False, soft_wrap=True)

    def _done(self, progress: RunProgress) -> float:
        """The fraction of the run that is done, by the limit that is nearest."""
        parts = [0.0]
        if self._steps:
            parts.append(progress.position.step / self._steps)
        if self._config.limits.max_minutes is not None:
            parts.append(progress.elapsed_s / (60 * self._config.limits.max_minutes))
        return min(1.0, max(parts))

    def _left(self, progress: RunProgress, done: float) -> str:
        if done <= 0:
            return ""
        # `elapsed_s` moves on at the same moments as the step, resumes included.
        seconds = progress.elapsed_s * (1 - done) / done
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _ours(module: pl.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
