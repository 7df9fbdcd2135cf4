"""Distillation: what every recipe shares that turns a frozen teacher into a flow map."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Generator, Tensor, nn

from freeflow_lightning.flow import (
    Pairs,
    TwoTimeVelocity,
    Velocity,
    check_counts,
    check_numbers,
    check_pairs,
    falling_rate,
    on_rows,
)
from freeflow_lightning.nets import LoRA, ScalarConditioned, SecondState, SplitHead, map_state
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.draws import Draws
from freeflow_lightning.recipes.holders import Frozen
from freeflow_lightning.recipes.networks import NetworkBuilder
from freeflow_lightning.recipes.outputs import AuxiliaryTraining, Step
from freeflow_lightning.recipes.student_checks import check_student
from freeflow_lightning.recipes.student_rate import bfloat16_error, step_size
from freeflow_lightning.teachers import Teacher, check_contract, check_convention
from freeflow_lightning.training.data import PriorBatch, PriorDataModule, PriorStream
from freeflow_lightning.training.optimizer import adam
from freeflow_lightning.training.step_metrics import Speed, root_mean_square
from freeflow_lightning.training.training_checkpoint import ABOUT


class Distillation(Recipe):
    """Distils a frozen teacher into a flow map f(x, t, s) = x + (t - s) F(x, t, s, condition,
    gamma).

    A recipe says what a step draws and what it minimises: `draw`, `loss`, `pairs` and
    `evaluations_per_sample`. Everything else is here: networks, adapters, sharding, compilation,
    optimizer, checks. What a verb or a callback asks of a recipe, it asks of this class.

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

    advice: ClassVar[Mapping[str, str]] = {
        "gradient/student": "the student's gradients grow: lower student_lr or set --trainer.gradient_clip_val",
    }
    """What HealthMonitor says where a figure grows."""

    spread_advice: ClassVar[str] = "lower student_lr, or widen what the recipe draws"
    """What HealthMonitor says where the student's samples are less diverse than the teacher's."""

    curves: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Figures that a report plots, by the title of their panel; every residual and gradient if
    empty.
    """

    has_auxiliary: bool = False
    """Whether a second network (x, r, condition, gamma) is trained. A recipe that has one sets this
    before it calls this constructor, and so the next.
    """

    second_state: SecondState | None = None
    """How the student takes a state beside its own, if it does."""

    head: SplitHead | None = None
    """How the student is split into features and a light head, if it is."""

    sampling = "student, 1 step"

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
        self.step_watchers: dict[str, Callable[[Step], None]] = {}
        """What callbacks are told of every batch, by the callback's name."""
        self._is_compiled = False
        self._speed = Speed()
        self._builder = NetworkBuilder(
            teacher, lora, time_module, scalar_scale, meta_init, self.second_state, self.head
        )
        names = ("student", "auxiliary") if self.has_auxiliary else ("student",)
        networks = self._builder.build(names, network)
        self.student = networks["student"]
        self.auxiliary: ScalarConditioned | None = networks.get("auxiliary")
        if activation_checkpointing:
            self._builder.checkpoint_activations(networks.values())

    # What a recipe says

    @property
    @abstractmethod
    def pairs(self) -> Pairs:
        """Between which times the student is trained to map."""

    @property
    def starts(self) -> tuple[float, ...] | None:
        """The times that its maps start at, falling from 1, where they are a list."""
        return None

    @abstractmethod
    def draw(self, size: int, generator: Generator) -> Any:
        """Everything random in one step of `size` samples, a function of the generator alone."""

    @abstractmethod
    def loss(self, draw: Any) -> Step:
        """One step of the method on what `draw` has drawn."""

    @abstractmethod
    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network (guidance counts two)."""

    def figures(self, draw: Any, step: Step) -> dict[str, Tensor | float]:
        """What a logged step is logged as: root mean squares of its residuals, if nothing else is
        said.
        """
        figures: dict[str, Tensor | float] = dict(step.scalars)
        for name, x in step.residuals.items():
            figures[f"{name}/residual"] = root_mean_square(x).mean()
        return figures

    @property
    def auxiliary_training(self) -> AuxiliaryTraining | None:
        """How the auxiliary network is trained, for `freeflow diagnose`; None where it is not
        examined.
        """
        return None

    @classmethod
    def unused_in_sampling(cls, arguments: Mapping[str, Any], *, auxiliary: bool) -> dict[str, Any]:
        """Values for constructor arguments that a student which is only sampled has no use for.

        Args:
            arguments: the config of a checkpoint.
            auxiliary: whether the auxiliary network is wanted.
        """
        return {}

    # What it is made of

    @property
    def teacher(self) -> Teacher:
        return self.frozen.net

    @property
    def trained(self) -> nn.Module:
        return self.student

    @property
    def is_guided(self) -> bool:
        """Whether the teacher is ever asked for a guided velocity."""
        return self.guidance_range != (1.0, 1.0)

    def networks(self) -> Mapping[str, ScalarConditioned]:
        if self.auxiliary is None:
            return {"student": self.student}
        return {"student": self.student, "auxiliary": self.auxiliary}

    def summary_rows(self) -> list[tuple[str, nn.Module, str]]:
        return [("teacher", self.teacher, "frozen, not saved"), *super().summary_rows()]

    def make_average(self, name: str) -> nn.Module:
        """Return a copy of the student, or a new adapter if the student is a LoRA adapter."""
        return self._builder.average(self.student, name)

    def networks_to_shard(self) -> list[nn.Module]:
        """With the teacher's backbone, where it has one; another teacher is whole in every process."""
        return super().networks_to_shard() + self._builder.teacher_backbones()

    def meta_weights(self) -> dict[Tensor, Tensor]:
        return self._builder.meta_weights([*self.networks().values(), *self.averages.values()])

    # The map

    def average(self, x: Tensor, t: Tensor, s: Tensor, condition: Any, gamma: Tensor) -> Tensor:
        """F(x, t, s, condition, gamma) of the student in training, with its gradient.

        Args:
            x: states at t, [B, ...].
            t: start times in [0, 1], [B].
            s: end times in [0, t], [B].
            condition: as the teacher draws it.
            gamma: guidance scales, [B].
        """
        return self.student(x, t, condition, delta=t - s, gamma=gamma)

    def student_at(
        self, z: Tensor, condition: Any, gamma: Tensor, rows: Tensor | None = None
    ) -> TwoTimeVelocity:
        """F(x, t, delta) of the student in training, with its gradient.

        Args:
            z: states of the precision that the student is asked in: bf16-true makes others wider.
            condition: of each row, as the teacher draws it.
            gamma: guidance scales, [B].
            rows: the rows that are evaluated, F being 0 in the others; all if not given.
        """

        def evaluate(x: Tensor, t: Tensor, delta: Tensor, condition: Any, gamma: Tensor) -> Tensor:
            return self.student(x.to(z.dtype), t, condition, delta=delta, gamma=gamma)

        on_some = on_rows(evaluate, rows)
        return lambda x, t, delta: on_some(x, t, delta, condition, gamma)

    def teacher_at(
        self,
        z: Tensor,
        condition: Any,
        gamma: Tensor,
        interval: tuple[float, float] = (0.0, 1.0),
        rows: Tensor | None = None,
    ) -> Velocity:
        """The teacher's velocity u(x, t), guided where this recipe is.

        Args:
            z: states of the precision that the teacher is asked in, as in `student_at`.
            condition: of each row.
            gamma: guidance scales, [B].
            interval: times inside which it is guided.
            rows: the rows that guidance changes; all if not given.
        """
        gamma_or_none = gamma if self.is_guided else None
        u = self.teacher.guided_velocity(
            condition, gamma=gamma_or_none, interval=interval, rows=rows
        )
        return lambda x, t: u(x.to(z.dtype), t)

    @torch.no_grad()
    def flow_map(self, x: Tensor, t: Tensor, s: Tensor, condition: Any, gamma: Tensor) -> Tensor:
        """f(x, t, s) = x + (t - s) F of the evaluated student, in float32; arguments as in
        `average`.
        """
        return map_state(self.evaluated, x, condition, t=t, delta=t - s, gamma=gamma)

    def generate(self, z: Tensor, condition: Any) -> Tensor:
        one = torch.ones(len(z), device=z.device)
        return self.flow_map(
            z, one, torch.zeros_like(one), condition, self.evaluation_guidance * one
        )

    # Training

    def train_dataloader(self) -> PriorStream:
        """What `fit(module)` draws from where nothing is given: PriorDataModule's defaults."""
        data = PriorDataModule()
        data.trainer = self.trainer
        return data.train_dataloader()

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        draw = self.draw(batch.size, batch.generator(self.global_rank, self.device))
        step = self.loss(draw)
        errors = {
            f"the {name} residual": residual.error for name, residual in step.residuals.items()
        }
        self.check_finite(errors | {"the loss": step.loss})
        for watch in self.step_watchers.values():
            watch(step)
        self._speed.tick()
        if self.logs_now:
            self._log(draw, step, batch.size)
        return step.loss

    @torch.no_grad()
    def _log(self, draw: Any, step: Step, size: int) -> None:
        figures = self.figures(draw, step)
        evaluations = sum(self.evaluations_per_sample().values())
        speed = self._speed.figures(size * self.trainer.world_size, evaluations)
        self.log_dict({**figures, **speed}, batch_size=size)

    def draws(self, generator: Generator) -> Draws:
        """The random numbers of one step for this teacher and guidance range."""
        return Draws(generator, self.teacher, self.guidance_range)

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """The mean of a figure over all processes."""
        attached = self._trainer is not None
        return self.trainer.strategy.reduce(x, reduce_op="mean") if attached else x

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[ABOUT] |= {"pairs": str(self.pairs), "starts": self.starts}

    def on_train_epoch_start(self) -> None:
        self._speed.restart()

    def on_validation_end(self) -> None:
        self._speed.restart()

    @cached_property
    def student_scale(self) -> float:
        """What the student's raw output is worth in u at the prior: 1 for a velocity and for a
        network of one's own.

        At t = 1 a score or noise network is multiplied by its `output_scale`, 157 for DDPM's betas.
        Adam's step does not depend on the size of the gradient, so that the student's would be that
        much too large in every layer: its learning rate is divided by it. Its loss is divided too,
        which makes Eqs. 9 and 11 products with the raw output: gradients, and with them Adam's eps
        and clipping, are then in the same units for every teacher.
        """
        if not self.starts_from_teacher:
            return 1.0
        scale = float(self.teacher.output_scale(torch.ones(1, device=self.device)))
        if not 0 < scale < math.inf:
            raise ValueError(
                f"expected output_scale(1) of the teacher to be finite and above 0, got {scale}"
            )
        return scale

    def configure_optimizers(self) -> Any:
        rates = {"student": self.student_lr / self.student_scale, "auxiliary": self.auxiliary_lr}
        groups = [
            {
                "params": [p for p in network.parameters() if p.requires_grad],
                "lr": rates[name],
                "name": name,
            }
            for name, network in self.networks().items()
        ]
        optimizer = adam(groups, betas=self.betas, eps=self.eps)
        if not self.lr_decay_steps:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ValueError("lr_decay_steps needs a run that ends: set --trainer.max_steps")
        if self.lr_decay_steps > total:
            rank_zero_warn(
                f"lr_decay_steps={self.lr_decay_steps} is longer than this run of {total:.0f} "
                "steps: the rates fall from its first step"
            )
        decay = min(self.lr_decay_steps, int(total))
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: falling_rate(step, int(total), decay)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

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
        self.teacher.conditions.shard(
            self.global_rank, self.trainer.world_size if self._trainer is not None else 1
        )
        has_data = not self.meta_init  # without data there is nothing to ask
        findings = check_contract(
            self.teacher,
            guided=self.is_guided,
            device=self.device,
            starts_student=self.starts_from_teacher and has_data,
        )
        for finding in findings:
            finding.raise_if_broken()
        if has_data:
            probe = Generator().manual_seed(0)
            condition = self.teacher.draw_condition(2, probe)
            x = torch.randn(2, *self.teacher.sample_shape, generator=probe).to(self.device)
            condition = self.transfer_batch_to_device(condition, self.device, 0)
            check_student(self.student, self.teacher, x, condition)

    def on_train_start(self) -> None:
        """Refuse data: a distillation has no use for any (Raises: ValueError)."""
        super().on_train_start()
        given = self.trainer.train_dataloader
        if not isinstance(given, PriorStream):
            raise ValueError(
                f"expected no data, got a {type(given).__name__}: a distillation draws from the "
                "prior, fit(module) or fit(module, PriorDataModule(batch_size=...))"
            )

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
        with self.teacher.conditions.whole(), self.trainer.precision_plugin.forward_context():
            evidence = check_convention(self.teacher, device=self.device)
        evidence.raise_if_wrong()
        if evidence.verdict == "unclear":
            rank_zero_warn(evidence.summary())
        if evidence.size_problem:
            rank_zero_warn(evidence.size_problem)
