"""StudentEMA: moving averages of the trained network, saved beside the raw weights and used for
samples and metrics.
"""

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from freeflow_lightning.flow import check_numbers
from freeflow_lightning.recipes.base import Recipe


def average_name(decay: float) -> str:
    """The name of an average in the checkpoint.

    >>> average_name(0.9999)
    'ema_0_9999'
    """
    return f"ema_{decay}".replace(".", "_")


def decay_at(step: int, decay: float) -> float:
    """The decay after `step` updates: it rises as (1 + n) / (10 + n) up to `decay`, so that early
    averages forget fast.

    >>> round(decay_at(1, 0.9999), 3), decay_at(10**6, 0.9999)
    (0.182, 0.9999)
    """
    return min(decay, (1 + step) / (10 + step))


class StudentEMA(Callback):
    """Exponential moving averages, updated once per optimizer step and before the checkpoint of
    that step is written.

    They live in the module's `averages`, so checkpoints hold them under `averages.<name>.` with the
    raw weights, strictly loaded. The first decay serves validation, samples and metrics.

    Args:
        decays: one decay in [0, 1) per average.
    """

    def __init__(self, decays: Sequence[float] = (0.9999,)) -> None:  # Table 6
        if not isinstance(decays, Sequence) or not decays or len(set(decays)) < len(decays):
            raise ValueError(f"expected decays to be one or more different numbers, got {decays!r}")
        for decay in decays:
            check_numbers(0, 1, without_high=True, decay=decay)
        self.decays = tuple(decays)
        self._hook: RemovableHandle | None = None
        self._updated_at = 0
        self._fresh: list[Tensor] = []
        self._averages: dict[float, list[Tensor]] = {}
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Recipe):
            raise ValueError(
                f"StudentEMA serves a Recipe (a Distillation, FlowMatchingModule), got "
                f"{type(pl_module).__name__}"
            )
        self._refuse_shared_decays(trainer)
        for decay in self.decays:
            if (name := average_name(decay)) not in pl_module.averages:
                pl_module.averages[name] = (
                    pl_module.make_average(name).float().requires_grad_(False).eval()
                )

    def _refuse_shared_decays(self, trainer: Trainer) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        others = [c for c in callbacks if isinstance(c, StudentEMA) and c is not self]
        shared = {decay for other in others for decay in other.decays} & set(self.decays)
        if shared:
            raise ValueError(
                f"expected StudentEMA callbacks of different decays, got {sorted(shared)} in two "
                "of them, which would update one average twice a step: leave it out of one"
            )

    def on_train_start(self, trainer: Trainer, pl_module: Recipe) -> None:
        self._updated_at = trainer.global_step
        averages = {decay: pl_module.averages[average_name(decay)] for decay in self.decays}
        self._fresh = (
            pl_module.weights()
        )  # once: walking small networks takes longer than averaging them
        self._averages = {decay: list(average.parameters()) for decay, average in averages.items()}
        self._buffers = [
            pair
            for x in averages.values()
            for pair in zip(x.buffers(), pl_module.trained.buffers(), strict=True)
        ]
        # at the end of the optimizer's own step: no error or signal can part the averages from the
        # weights
        self._hook = trainer.optimizers[0].register_step_post_hook(
            lambda *_: self.update(trainer.global_step + 1)
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights of `step`, once."""
        if (
            step == self._updated_at
        ):  # MasterAdam calls Adam's step: torch runs the hook for both once it has met a plain Adam
            return
        self._updated_at = step
        fresh = [weight.to(torch.float32) for weight in self._fresh]
        for decay, average in self._averages.items():
            torch._foreach_lerp_(average, fresh, 1 - decay_at(step, decay))
        for old, new in self._buffers:
            old.copy_(new)
