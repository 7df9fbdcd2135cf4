"""FlowMatchingModule: a second recipe, which trains a teacher by flow matching. It is the one that
needs data.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning.flow import (
    LogitNormal,
    TimeDistribution,
    check_counts,
    check_numbers,
    check_pairs,
    check_shapes,
    conditional_velocity,
    interpolate,
    solve,
    training_generator,
)
from freeflow_lightning.objectives import residual
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.teachers import Teacher, VelocityTeacher
from freeflow_lightning.training.optimizer import adam
from freeflow_lightning.training.trainer_facts import current_batch


class FlowMatchingModule(Recipe):
    """Conditional flow matching with label dropout: E || u(x_t, t, c) - (x - z) ||^2 (Eq. 2).

    Args:
        network: velocity network (x, t, condition) -> u, for example SiTVelocity.
        sample_shape: shape of one state.
        num_classes: classes of the labels; the label `num_classes` means "no condition".
        label_dropout: probability of training on the null class, which guidance needs.
        time: law of t.
        lr: learning rate at its highest.
        warmup_steps: steps of its linear rise; it then falls along a cosine to a hundredth at the
            trainer's max_steps.
        betas: Adam's.
        seed: seed of all draws; that of --seed_everything if not given, 0 in Python.
        evaluation_guidance: gamma of validation samples.
        evaluation_steps: Heun steps of validation samples.
    """

    progress_names: ClassVar[Mapping[str, str]] = {"flow_matching/loss": "loss"}

    def __init__(
        self,
        network: nn.Module,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        label_dropout: float = 0.1,
        time: TimeDistribution = LogitNormal(0.0, 1.0),  # noqa: B008 (frozen)
        lr: float = 1e-3,
        warmup_steps: int = 200,
        betas: tuple[float, float] = (0.9, 0.99),
        seed: int | None = None,
        evaluation_guidance: float = 1.0,
        evaluation_steps: int = 16,
    ) -> None:
        super().__init__()
        check_shapes(sample_shape=sample_shape)
        check_counts(0, num_classes=num_classes, warmup_steps=warmup_steps)
        check_counts(1, evaluation_steps=evaluation_steps)
        seed = 0 if seed is None else seed
        check_counts(-math.inf, seed=seed)
        check_numbers(0, 1, label_dropout=label_dropout)
        check_numbers(0, without_low=True, lr=lr)
        check_numbers(0, evaluation_guidance=evaluation_guidance)
        check_pairs(0, 1, without_high=True, betas=betas)
        if label_dropout and not num_classes:
            raise ValueError(
                f"expected label_dropout 0 without classes, got {label_dropout}: "
                "set it to 0, or num_classes to the number of classes"
            )
        self.network = network
        self.sample_shape = sample_shape
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.time = time
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.betas = betas
        self.seed = seed
        self.evaluation_guidance = evaluation_guidance
        self.evaluation_steps = evaluation_steps

    @property
    def sampling(self) -> str:
        return f"this network, {self.evaluation_steps} heun steps"

    @property
    def trained(self) -> nn.Module:
        return self.network

    @property
    def teacher(self) -> Teacher:
        return VelocityTeacher(self.evaluated, self.sample_shape, self.num_classes)

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = adam([{"params": trained}], lr=self.lr, betas=self.betas)
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(self.warmup_steps, 1))
            return rise * (0.01 + 0.99 * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        counter = current_batch(self.trainer)  # a data set's batches carry none
        generator = training_generator(self.seed, self.global_rank, counter, self.device)
        z, t, labels = self.draw(x, labels, generator)
        output = self.network(interpolate(x, z, t), t, labels if self.num_classes else None)
        matched = residual(output, output - conditional_velocity(x, z))
        self.check_finite({"the flow-matching residual": matched.error})
        if self.logs_now:
            self.log("flow_matching/loss", matched.mean_square().mean(), batch_size=len(x))
        return matched.surrogate().mean()

    def draw(
        self, x: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, times and labels with some of them dropped, from one generator."""
        z = torch.randn(x.shape, generator=generator, device=x.device)
        t = self.time.sample(len(x), generator)
        dropped = torch.rand(len(x), generator=generator, device=x.device) < self.label_dropout
        return z, t, torch.where(dropped, self.num_classes, labels)

    @torch.no_grad()
    def generate(self, z: Tensor, condition: Any) -> Tensor:
        u = self.teacher.guided_velocity(condition, gamma=self.evaluation_guidance)
        return solve(lambda x, t, _: u(x, t), z, steps=self.evaluation_steps)
