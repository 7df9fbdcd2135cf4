"""MovingAverages: averages of the trained network that follow it from step to step."""

from abc import abstractmethod
from collections.abc import Collection, Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from freeflow_lightning.recipes.base import Recipe


class MovingAverages(Callback):
    """Averages in the module's `averages`, updated once per optimizer step, before the checkpoint of
    that step is written.

    Checkpoints hold them under `averages.<name>.` with the raw weights, strictly loaded. The first
    of a run serves validation, samples and metrics.

    Args:
        names: of the averages, none twice.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._hook: RemovableHandle | None = None
        self._updated_at = 0
        self._fresh: list[Tensor] = []
        self._averages: dict[str, list[Tensor]] = {}
        self._buffers: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def decay(self, name: str, step: int) -> float:
        """Return the factor of an old average in its update after the optimizer step number
        `step`.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Recipe):
            raise ValueError(
                f"{type(self).__name__} serves a Recipe (a Distillation, FlowMatchingModule), got "
                f"{type(pl_module).__name__}"
            )
        if shared := self._shared_names(trainer):
            raise ValueError(
                f"expected callbacks of different averages, got {', '.join(shared)} in two "
                "of them, which would update one average twice a step: leave it out of one"
            )
        for name in self.names:
            if name not in pl_module.averages:
                pl_module.averages[name] = (
                    pl_module.make_average(name).float().requires_grad_(False).eval()
                )

    def _shared_names(self, trainer: Trainer) -> Collection[str]:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        others = [c for c in callbacks if isinstance(c, MovingAverages) and c is not self]
        return sorted({name for other in others for name in other.names} & set(self.names))

    def on_train_start(self, trainer: Trainer, pl_module: Recipe) -> None:
        self._updated_at = trainer.global_step
        averages = {name: pl_module.averages[name] for name in self.names}
        # once: walking small networks takes longer than averaging them
        self._fresh = pl_module.weights()
        self._averages = {name: list(average.parameters()) for name, average in averages.items()}
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
        # MasterAdam calls Adam's step: torch runs the hook for both once it has met a plain Adam
        if step == self._updated_at:
            return
        self._updated_at = step
        fresh = [weight.to(torch.float32) for weight in self._fresh]
        for name, average in self._averages.items():
            torch._foreach_lerp_(average, fresh, 1 - self.decay(name, step))
        for old, new in self._buffers:
            old.copy_(new)
