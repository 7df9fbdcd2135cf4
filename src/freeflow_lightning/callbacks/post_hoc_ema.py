"""PostHocEMA: averages of two lengths, and snapshots of them from which a student of any other
length is made after the run.
"""

from collections.abc import Sequence
from typing import Any, final

from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from freeflow_lightning.callbacks.averages import MovingAverages
from freeflow_lightning.callbacks.checks import refuse_second
from freeflow_lightning.flow import check_counts
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.training.atomic_write import write_file
from freeflow_lightning.training.gather_full import gather_full
from freeflow_lightning.training.power_averages import find_exponent, power_decay
from freeflow_lightning.training.run_folder import folder_of
from freeflow_lightning.training.snapshots import POST_HOC, SNAPSHOTS, length_name, snapshot_name


@final
class PostHocEMA(MovingAverages):
    """Averages by power functions of the step (Karras et al., arXiv 2312.02696, section 3), beside
    those of StudentEMA or alone.

    `freeflow export --ema_length 0.08` makes the average of any length of the snapshots, as if it
    had been tracked: two lengths are enough. A snapshot is two float32 networks. Each process asks
    for it where weights are sharded, and the first one writes it.

    Args:
        lengths: of the averages, as shares of the run so far, each in (0, 0.2886].
        every_n_steps: optimizer steps between two snapshots, RUN/ema_snapshots/step_N.safetensors.
    """

    def __init__(self, lengths: Sequence[float] = (0.05, 0.1), every_n_steps: int = 10_000) -> None:
        if not isinstance(lengths, Sequence) or not lengths or len(set(lengths)) < len(lengths):
            raise ValueError(
                f"expected lengths to be one or more different numbers, got {lengths!r}"
            )
        check_counts(1, every_n_steps=every_n_steps)
        self._exponents = {length_name(length): find_exponent(length) for length in lengths}
        super().__init__(list(self._exponents))
        self.lengths = tuple(lengths)
        self.every_n_steps = every_n_steps
        self._begun: int | None = None
        self._steps: list[int] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_second(trainer, self)
        super().setup(trainer, pl_module, stage)

    def decay(self, name: str, step: int) -> float:
        assert self._begun is not None  # training has started
        return power_decay(step - self._begun, self._exponents[name])

    def on_train_start(self, trainer: Trainer, pl_module: Recipe) -> None:
        super().on_train_start(trainer, pl_module)
        if self._begun is None:
            self._begun = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Recipe, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        is_new = step > max(self._steps, default=self._begun or 0)
        if is_new and step % self.every_n_steps == 0:
            self._write_snapshot(trainer, pl_module)
            self._steps.append(step)

    def _write_snapshot(self, trainer: Trainer, pl_module: Recipe) -> None:
        tensors: dict[str, Tensor] = {}
        for name in self.names:
            for key, value in pl_module.averages[name].state_dict().items():
                full = gather_full(value.detach())
                if trainer.is_global_zero:
                    tensors[f"{name}.{key}"] = full.to("cpu", copy=True).contiguous()
        folder = folder_of(trainer)
        if folder is not None and trainer.is_global_zero:
            step = trainer.global_step
            with write_file(folder / SNAPSHOTS / snapshot_name(step)) as path:
                save_file(tensors, path, {"step": str(step)})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        folder = folder_of(trainer)
        checkpoint[POST_HOC] = {
            "lengths": list(self.lengths),
            "begun": self._begun,
            "steps": list(self._steps),
            "folder": str(folder.resolve() / SNAPSHOTS) if folder else "",
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if POST_HOC not in checkpoint:
            return
        facts = checkpoint[POST_HOC]
        if facts["lengths"] != list(self.lengths):
            raise ValueError(
                f"expected PostHocEMA lengths {facts['lengths']}, which the checkpoint was trained "
                f"with, got {list(self.lengths)}: keep them, any other length is made afterwards"
            )
        self._begun, self._steps = facts["begun"], list(facts["steps"])
