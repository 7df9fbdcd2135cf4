"""GuardedModule: gradients measured and clipped network by network, and a stop at the first number
that is not finite.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from freeflow_lightning.training.finite import FiniteWatch, NonFiniteError, max_magnitudes
from freeflow_lightning.training.gradients import (
    collect_gradients,
    label_gradients,
    measure_tensors,
    norm_by_network,
    skips_by_itself,
)
from freeflow_lightning.training.optimizer import trained_by
from freeflow_lightning.training.trainer_facts import find_newest_checkpoint, is_logged, log_at_step


class GuardedModule(LightningModule):
    """A LightningModule of several networks, none of whose weights is changed by a number that is
    not finite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights_step: int | None = 0
        """The optimizer step whose weights and averages these are; None while they change."""
        self._finite = FiniteWatch()

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """Return the networks in training by name, one parameter group each."""

    @property
    def logs_now(self) -> bool:
        """Whether Lightning will write the figures of this step: figures cost time and are made for
        such steps only.
        """
        return is_logged(self.trainer, self.global_step + 1)

    def on_train_start(self) -> None:
        self._finite = FiniteWatch()
        self.weights_step = self.global_step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let figures be logged at their own step: after resuming from a validation's checkpoint
        Lightning is one ahead.
        """
        log_at_step(self.trainer, self.global_step)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure, check and, if asked, clip the gradient norm of each network by itself.

        From the first number on that is not finite, a fused optimizer leaves the weights as they
        are, on the device and by itself; for any other, and for sharded weights, the host waits for
        the norms.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            raise ValueError(
                f"expected gradient_clip_algorithm 'norm', got {gradient_clip_algorithm!r}"
            )
        weights = dict(zip(self.networks(), trained_by(optimizer), strict=True))
        gradients = collect_gradients(weights)
        lengths = measure_tensors(gradients)
        skips = skips_by_itself(optimizer, gradients)
        self._finite.add(self.global_step, label_gradients(gradients), lengths)
        self._raise_if_broken(wait=not skips)
        if skips:
            optimizer.found_inf = self._finite.broken
        self.weights_step = None  # the optimizer's update is next
        if not (gradient_clip_val or self.logs_now):
            return

        norms = norm_by_network(gradients, lengths)
        if gradient_clip_val:
            for name, norm in norms.items():
                torch.nn.utils.clip_grads_with_norm_(weights[name], gradient_clip_val, norm)
        if self.logs_now:
            self.log_dict({f"gradient/{name}": norm for name, norm in norms.items()})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.weights_step = self.global_step + 1  # Lightning counts it after this

    def on_validation_start(self) -> None:
        self._raise_if_broken(wait=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """No checkpoint is written of steps whose numbers the host has not seen."""
        self._raise_if_broken(wait=True)

    def on_train_end(self) -> None:
        self._raise_if_broken(wait=True)

    def check_finite(self, terms: dict[str, Tensor]) -> None:
        """Stop the run where a term is not finite: now, or within a few steps that change no
        weight.

        Raises:
            NonFiniteError: with the terms, their step and the last checkpoint.
        """
        self._finite.add(self.global_step, list(terms), max_magnitudes(list(terms.values())))
        self._raise_if_broken(wait=False)

    def _raise_if_broken(self, *, wait: bool) -> None:
        if (broken := self._finite.look(wait=wait)) is None:
            return
        checkpoint = find_newest_checkpoint(self.trainer) or "none written yet"
        raise NonFiniteError(
            f"{' and '.join(broken.names)} not finite at step {broken.step} (rank "
            f"{self.global_rank}). The weights of this step were not updated; last checkpoint: "
            f"{checkpoint}. Resume from it with a lower learning rate, gradient clipping "
            "(--trainer.gradient_clip_val) or a higher precision.",
            broken.step,
        )
