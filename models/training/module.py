"""What the three Lightning modules have in common: optimiser, clipping, gradient norms, the abort on NaN."""

from abc import abstractmethod
from collections.abc import Iterable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.training.batches import Batch, TrainingData
from models.training.config import OptimiserConfig, RunConfig
from models.training.errors import DivergenceError
from models.training.progress import Progress
from models.training.schedule import multiplier, total_steps
from models.training.scorer import Scorer


class TrainingModule(pl.LightningModule):
    """Trains a pure torch module; what must live between steps is here, never on that module.

    Args:
        model: The module to train, which becomes `self.model`.
        config: The run's config.
        scorer: Evaluates dev batches.
        progress: Where the run is; moved on by the `Keeper` callback.
        data: The training batches of this process.
    """

    def __init__(
        self, model: nn.Module, config: RunConfig, scorer: Scorer, progress: Progress, data: TrainingData
    ) -> None:
        super().__init__()
        self.model = model
        self.config, self.scorer, self.progress, self.data = config, scorer, progress, data
        self.steps = total_steps(config.limits, data.num_batches(0))
        """Optimiser steps of the whole run; None where only time limits it."""
        self.dev_metrics: dict[str, float] = {}
        self.last_loss: Tensor | None = None
        """Mean loss of the last step, in nats, ()."""
        self.last_norm: Tensor | None = None
        """Global gradient norm of the last step before clipping, ()."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of a batch, in nats, ()."""

    def carried(self) -> dict[str, Tensor]:
        """What is carried from one batch to the next, for the saved state; nothing unless a family says so."""
        return {}

    def restore_carried(self, carried: dict[str, Tensor]) -> None:
        """Take over what `carried` gave."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss; abort where it is no number.

        Raises:
            DivergenceError: The loss is NaN or infinite.
        """
        loss = self.loss(batch)
        self.last_loss = loss.detach()
        self._check("the loss", self.last_loss)
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        rate = self.rate()
        for group in self._optimiser().param_groups:
            group["lr"] = rate

    def rate(self) -> float:
        """The learning rate of the next step."""
        factor = multiplier(self.config.schedule, self.config.limits, self.progress, self.steps)
        return self.config.optimiser.learning_rate * factor

    def configure_optimizers(self) -> Optimizer:
        """Make the optimiser."""
        # The gradient scaler of fp16 must unscale before clipping, which a fused optimiser leaves to itself.
        return make_optimiser(self.config.optimiser, self.model.parameters(), fused=self.config.precision != "fp16")

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the true global norm: all gradients together, as one vector; keep the norm from before.

        Source: Pascanu et al. 2013, Algorithm 1, over all parameters at once.

        Raises:
            DivergenceError: The norm is NaN or infinite (under fp16 the scaler skips such a step instead).
        """
        log = self.logger is not None and (self.progress.position.step + 1) % self.config.log_every_steps == 0
        if log:
            self._log_norms()
        limit = self.config.clip_norm
        # An infinite limit computes the norm and leaves the gradients as they are.
        self.last_norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        if self.config.precision != "fp16":
            self._check("the gradient norm", self.last_norm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Give one dev batch to the scorer."""
        self.scorer.add(batch)

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.scorer.reset()

    def on_validation_epoch_end(self) -> None:
        """End it."""
        self.dev_metrics = self.scorer.metrics()

    def _optimiser(self) -> Optimizer:
        optimiser = self.trainer.optimizers[0]
        assert isinstance(optimiser, Optimizer)
        return optimiser

    def _check(self, what: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise DivergenceError(what, self.progress.position.step + 1, float(value))

    def _log_norms(self) -> None:
        """Log the gradient norm of each parameter, before clipping."""
        assert self.logger is not None
        norms = {
            f"gradient_norm/{name}": float(parameter.grad.norm())
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.logger.log_metrics(norms, step=self.progress.position.step + 1)


def make_optimiser(config: OptimiserConfig, parameters: Iterable[nn.Parameter], fused: bool) -> Optimizer:
    """Make the optimiser that a config asks for.

    Args:
        config: Its name and parameters.
        parameters: What it moves.
        fused: Use the fused kernels: one call for all parameters, which counts on small models.
    """
    held = [parameter for parameter in parameters if parameter.requires_grad]
    if config.name == "sgd":
        return torch.optim.SGD(
            held, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        held,
        config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=fused,
    )
