"""Distillation: how the networks of a map's recipe are built, sharded, compiled, checked,
trained.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers, check_pairs
from freeflow_lightning.nets import LoRA, SecondState, SplitHead
from freeflow_lightning.recipes.holders import Frozen
from freeflow_lightning.recipes.map_recipe import MapRecipe
from freeflow_lightning.recipes.student_checks import check_student
from freeflow_lightning.recipes.student_rate import bfloat16_error, find_scale, step_size
from freeflow_lightning.recipes.teacher_checks import (
    check_direction,
    check_teacher_fits,
    refuse_data,
)
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.data import PriorBatch, PriorDataModule, PriorStream
from freeflow_lightning.training.networks import NetworkBuilder
from freeflow_lightning.training.optimizer import adam, decay_rates


class Distillation(MapRecipe):
    """Distils a frozen teacher into a flow map f(x, t, s) = x + (t - s) F(x, t, s, condition,
    gamma).

    A recipe says what a step draws and what it minimises: `draw`, `loss`, `pairs` and
    `evaluations_per_sample` of `MapRecipe`. Everything else is here: networks, adapters, sharding,
    compilation, optimizer, checks.

    A recipe that takes `**settings` passes them on, and has the arguments below that are given by
    keyword alone as its own.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from; the
            teacher's if not given.
        guidance_range: gamma is uniform on [low, high] per sample; [1, 1] trains without guidance.
        evaluation_guidance: gamma of validation samples, inside guidance_range.
        student_lr: learning rate of the student, in units of u: Adam's is this over
            `student_scale`, which is 1 for velocities.
        auxiliary_lr: learning rate of the auxiliary network.
        lr_decay_steps: last steps of the run (trainer.max_steps) over which both rates fall along
            half a cosine to 0; 0 keeps them, as the paper does.
        betas: Adam's.
        eps: Adam's.
        scalar_scale: factor on delta and gamma before their frequency embeddings.
        time_module: path of the network's time embedding, where it is not found by name.
        check_teacher: measure the sign and the direction of time of the teacher before training,
            and refuse wrong ones.
        lora: make the networks that it names low-rank adapters on the teacher's own backbone, which
            is then in memory once and in no checkpoint.
        skip_idle_rows: leave out the evaluations that have no effect: the student's where delta (on
            its grid) is 0, and the teacher's unconditional branch where a correction's r is outside
            its guidance interval. The step is the same; the sizes of these calls then change from
            step to step, which compiled networks do not like: done if not given, unless `compile`
            is.
        activation_checkpointing: let the backward pass compute the activations of each block of
            student and auxiliary again: a forward pass more, and the memory of one block at a time.
        compile: backend of torch.compile, such as "inductor", for the blocks of teacher, student
            and auxiliary.
        meta_init: build student, auxiliary and averages without weights, and copy the teacher's
            into each process's share of one block after the other: for networks that the host's
            memory holds once per process and not four times.
    """

    has_auxiliary: bool = False
    """Whether a second network (x, r, condition, gamma) is trained. A recipe that has one sets this
    before it calls this constructor, and so the next.
    """

    auxiliary_scalars: tuple[str, ...] = ("gamma",)
    """What that network takes beside (x, r, condition): gamma, and `start` where the samples of
    each start time t are matched alone. One that is not told learns the samples of all starts
    together, and these make up for each other: noisy ones of one start for blends of another.
    """

    second_state: SecondState | None = None
    """How the student takes a state beside its own, if it does."""

    head: SplitHead | None = None
    """How the student is split into features and a light head, if it is."""

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        *,
        guidance_range: Sequence[float] = (1.0, 2.0),  # Table 6
        evaluation_guidance: float = 1.5,
        student_lr: float = 3e-5,  # Table 6
        auxiliary_lr: float = 1e-4,  # Table 6
        lr_decay_steps: int = 0,
        betas: Sequence[float] = (0.9, 0.99),  # Table 6
        eps: float = 1e-8,  # Table 6
        scalar_scale: float = 1.0,
        time_module: str | None = None,
        check_teacher: bool = True,
        lora: LoRA | None = None,
        skip_idle_rows: bool | None = None,
        activation_checkpointing: bool = False,
        compile: str | None = None,
        meta_init: bool = False,
    ) -> None:
        super().__init__()
        check_pairs(0, math.inf, guidance_range=guidance_range)
        check_pairs(0, 1, without_high=True, betas=betas)
        low, high = guidance_range
        check_numbers(low, high, evaluation_guidance=evaluation_guidance)
        check_numbers(
            0, without_low=True, student_lr=student_lr, auxiliary_lr=auxiliary_lr, eps=eps
        )
        check_numbers(0, without_low=True, scalar_scale=scalar_scale)
        check_counts(0, lr_decay_steps=lr_decay_steps)
        self.frozen = Frozen(teacher)
        self.starts_from_teacher = network is None  # and so in the teacher's own parameterisation
        self.guidance_range = (low, high)
        self.evaluation_guidance = evaluation_guidance
        self.student_lr = student_lr
        self.auxiliary_lr = auxiliary_lr
        self.lr_decay_steps = lr_decay_steps
        self.betas = (betas[0], betas[1])
        self.eps = eps
        self.scalar_scale = scalar_scale
        self.time_module = time_module
        self.check_teacher = check_teacher
        self.lora = lora
        self.skip_idle_rows = compile is None if skip_idle_rows is None else skip_idle_rows
        self.compile_backend = compile
        self.meta_init = meta_init
        self._is_compiled = False
        self._builder = NetworkBuilder(
            teacher,
            lora,
            time_module,
            scalar_scale,
            meta_init,
            self.auxiliary_scalars,
            self.second_state,
            self.head,
        )
        names = ("student", "auxiliary") if self.has_auxiliary else ("student",)
        networks = self._builder.build(names, network)
        self.student = networks["student"]
        self.auxiliary = networks.get("auxiliary")
        if activation_checkpointing:
            self._builder.checkpoint_activations(networks.values())

    # What it is made of

    @property
    def teacher(self) -> Teacher:
        return self.frozen.net

    def make_average(self, name: str) -> nn.Module:
        """Return a copy of the student, or a new adapter if the student is a LoRA adapter."""
        return self._builder.average(self.student, name)

    def networks_to_shard(self) -> list[nn.Module]:
        """With the teacher's backbone, where it has one; another teacher is whole in every
        process.
        """
        return super().networks_to_shard() + self._builder.teacher_backbones()

    def meta_weights(self) -> dict[Tensor, Tensor]:
        return self._builder.meta_weights([*self.networks().values(), *self.averages.values()])

    # Training

    def train_dataloader(self) -> PriorStream:
        """Return what `fit(module)` draws from where nothing is given: PriorDataModule's
        defaults.
        """
        data = PriorDataModule()
        data.trainer = self.trainer
        return data.train_dataloader()

    @cached_property
    def student_scale(self) -> float:
        """What the student's raw output is worth in u at the prior: 1 for a velocity and for a
        network of one's own.

        Adam's step does not depend on the size of the gradient, so that the student's would be that
        much too large in every layer: its learning rate is divided by it. Its loss is divided too,
        which makes Eqs. 9 and 11 products with the raw output: gradients, and with them Adam's eps
        and clipping, are then in the same units for every teacher.
        """
        return find_scale(self.teacher, self.device) if self.starts_from_teacher else 1.0

    @property
    def resting(self) -> nn.Module | None:
        """The network that this step leaves as it is; None where it trains all of them."""
        return None

    @property
    def steady_steps(self) -> range:
        """Optimizer steps that a long run repeats, one turn of them; a first stage lies before."""
        return range(1)

    def begin_step(self, step: int) -> None:
        """Make `draw` and `loss` those of an optimizer step, where steps are of several kinds."""

    def on_train_batch_start(self, batch: PriorBatch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.begin_step(self.global_step)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return Adam on the trained networks, a group each, at their full rates."""
        rates = {"student": self.student_lr / self.student_scale, "auxiliary": self.auxiliary_lr}
        groups = [
            {
                "params": [p for p in network.parameters() if p.requires_grad],
                "lr": rates[name],
                "name": name,
            }
            for name, network in self.networks().items()
        ]
        return adam(groups, betas=self.betas, eps=self.eps)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        if not self.lr_decay_steps:
            return optimizer
        schedule = decay_rates(
            optimizer, self.lr_decay_steps, self.trainer.estimated_stepping_batches
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_model(self) -> None:
        if self.compile_backend is not None and not self._is_compiled:
            self._is_compiled = True
            self._builder.compile(self.networks().values(), self.compile_backend)
        super().configure_model()

    @torch.compiler.set_stance("force_eager")  # for a few samples nothing is compiled
    def setup(self, stage: str) -> None:
        """Ask everything once on a few samples, so that a teacher that does not fit is refused
        before training starts.
        """
        trainer = self._trainer
        self.teacher.conditions.shard(
            self.global_rank, 1 if trainer is None else trainer.world_size
        )
        has_data = not self.meta_init  # without data there is nothing to ask
        if (
            has_data
            and trainer is not None
            and not isinstance(trainer.strategy, ModelParallelStrategy)
        ):
            self.to(self.device)  # where Lightning moves it next; a CPU would answer for minutes
        check_teacher_fits(
            self.teacher,
            guided=self.is_guided,
            starts_student=self.starts_from_teacher and has_data,
        )
        if has_data:
            check_student(self.student, self.teacher)

    def on_train_start(self) -> None:
        super().on_train_start()
        refuse_data(self.trainer.train_dataloader)

    @torch.compiler.set_stance("force_eager")
    def on_fit_start(self) -> None:
        """Measure the teacher's sign and direction of time, now that it is where it will run."""
        super().on_fit_start()
        if self.student_scale != 1:
            rank_zero_info(
                f"the student's learning rate is {step_size(self.student_lr, self.student_scale)}"
            )
            if error := bfloat16_error(self.student_scale, str(self.trainer.precision)):
                rank_zero_warn(error)
        if not self.check_teacher:
            return
        # sharded networks: all ask the same
        with self.teacher.conditions.use_all(), self.trainer.precision_plugin.forward_context():
            check_direction(self.teacher, self.device)
