"""Distillation: what every recipe shares that turns a frozen teacher into a flow map."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Generator, Tensor, nn

from freeflow_lightning.flow import (
    Pairs,
    TimeDistribution,
    Velocity,
    check_numbers,
    check_pairs,
    training_generator,
)
from freeflow_lightning.nets import (
    Adapter,
    LoRA,
    ScalarConditioned,
    compile_blocks,
    map_state,
    recompute,
    time_embeddings,
)
from freeflow_lightning.objectives import Residual
from freeflow_lightning.recipes.base import Frozen, Recipe
from freeflow_lightning.recipes.draws import Draws
from freeflow_lightning.recipes.student_rate import bfloat16_error, step_size
from freeflow_lightning.teachers import Teacher, check_convention, described, examine
from freeflow_lightning.training.data import PriorBatch
from freeflow_lightning.training.optimizer import adam
from freeflow_lightning.training.step_metrics import Speed, root_mean_square
from freeflow_lightning.training.strategies import copies_without_data, meta_sources
from freeflow_lightning.training.training_checkpoint import ABOUT


class Step(NamedTuple):
    """What one step has computed.

    Args:
        loss: the scalar whose gradient is the step's.
        residuals: what the step minimises, by name; they are checked to be finite, and logged.
        scalars: further numbers to log, by the figure's name.
    """

    loss: Tensor
    residuals: Mapping[str, Residual]
    scalars: Mapping[str, Tensor] = {}


class AuxiliaryTraining(NamedTuple):
    """How an auxiliary network G(x, r, condition, gamma) was trained, for those who examine it.

    Args:
        r: law of its time.
        guidance_interval: times inside which the teacher that it corrects towards is guided.
        lr: its learning rate.
    """

    r: TimeDistribution
    guidance_interval: tuple[float, float]
    lr: float


class Distillation(Recipe):
    """Distils a frozen teacher into a flow map f(x, t, s) = x + (t - s) F(x, t, s, condition,
    gamma).

    A recipe says what a step draws and what it minimises: `draw`, `loss`, `pairs` and
    `evaluations_per_sample`. Everything else is here: networks, adapters, sharding, compilation,
    optimizer, checks. What a verb or a callback asks of a recipe, it asks of this class.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from;
            the teacher's if not given.
        has_auxiliary: whether a second network (x, r, condition, gamma) is trained.
        guidance_range: gamma is uniform on [low, high] per sample; [1, 1] trains without guidance.
        evaluation_guidance: gamma of validation samples, inside guidance_range.
        student_lr: learning rate of the student, in units of u: Adam's is this over
            `student_scale`.
        auxiliary_lr: learning rate of the auxiliary network.
        betas: Adam's.
        eps: Adam's.
        scalar_scale: factor on delta and gamma before their frequency embeddings.
        time_module: path of the network's time embedding, where it is not found by name.
        check_teacher: measure the sign and the direction of time of the teacher before training.
        lora: make the networks that it names low-rank adapters on the teacher's own backbone.
        skip_idle_rows: leave out evaluations without effect; done if not given, unless `compile`
            is.
        activation_checkpointing: compute each block's activations again in the backward pass.
        compile: backend of torch.compile for the blocks of all networks.
        meta_init: build the networks without weights, and copy the teacher's into each process's
            share.
    """

    advice: ClassVar[Mapping[str, str]] = {
        "gradient/student": "the student's gradients grow: lower student_lr or set --trainer.gradient_clip_val",
    }
    """What HealthMonitor says where a figure grows."""

    diversity_advice: ClassVar[str] = "lower student_lr, or widen what the recipe draws"
    """What HealthMonitor says where the student's samples are less diverse than the teacher's."""

    curves: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Figures that a report plots, by the title of their panel; every residual and gradient if
    empty.
    """

    sampling = "student, 1 step"

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        *,
        has_auxiliary: bool = False,
        guidance_range: Sequence[float] = (1.0, 2.0),
        evaluation_guidance: float = 1.5,
        student_lr: float = 3e-5,
        auxiliary_lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        eps: float = 1e-8,
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
        self.frozen = Frozen(teacher)
        self.starts_from_teacher = network is None  # and so in the teacher's own parameterisation
        self.guidance_range = (low, high)
        self.evaluation_guidance = evaluation_guidance
        self.student_lr = student_lr
        self.auxiliary_lr = auxiliary_lr
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
        self._speed = Speed()
        self._build(has_auxiliary, network)
        if activation_checkpointing:
            self._checkpoint_activations()

    # What a recipe says

    @property
    @abstractmethod
    def pairs(self) -> Pairs:
        """Between which times the student is trained to map."""

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

    def _build(self, has_auxiliary: bool, network: nn.Module | None) -> None:
        names = ("student", "auxiliary") if has_auxiliary else ("student",)
        backbones = self._backbones(names, network)
        self.student = self._conditioned(backbones["student"], ("delta", "gamma"))
        self.auxiliary: ScalarConditioned | None = None
        if has_auxiliary:
            self.auxiliary = self._conditioned(backbones["auxiliary"], ("gamma",))

    def _checkpoint_activations(self) -> None:
        for conditioned in self.networks().values():
            base = conditioned.hooked
            recompute(base, list(time_embeddings(base, self.time_module).values()))

    def _backbones(self, names: Sequence[str], network: nn.Module | None) -> dict[str, nn.Module]:
        """What each network starts from: a copy of the backbone, or an adapter on the teacher's."""
        adapted = [name for name in names if self.lora is not None and name in self.lora.networks]
        self._check_start(network, adapted)
        full = [name for name in names if name not in adapted]
        backbones: dict[str, nn.Module] = {}
        with copies_without_data() if self.meta_init else nullcontext():
            if full:
                start = self.teacher.network() if network is None else network
                # before hooks and adapters are on it
                backbones = {name: start if name == full[0] else deepcopy(start) for name in full}
        return backbones | {name: self._adapter(name) for name in adapted}

    def _check_start(self, network: nn.Module | None, adapted: Sequence[str]) -> None:
        if self.lora is not None and network is not None:
            raise ValueError("lora adapts the teacher's own backbone: leave network out")
        if self.lora is not None and not adapted:
            raise ValueError(
                "lora.networks names the auxiliary network alone, which these settings do not "
                "train: remove lora, or train an auxiliary network (FreeFlowModule: "
                "correction_fraction above 0)"
            )
        if self.meta_init and (network is not None or self.lora is not None):
            raise ValueError(
                "meta_init copies the teacher's own network: leave network and lora out"
            )

    def _adapter(self, name: str) -> Adapter:
        assert self.lora is not None
        base = self.teacher.backbone()
        return Adapter(base, name, self.lora, list(time_embeddings(base, self.time_module)))

    def _conditioned(self, backbone: nn.Module, scalars: tuple[str, ...]) -> ScalarConditioned:
        hooked = backbone.base if isinstance(backbone, Adapter) else None
        return ScalarConditioned(backbone, scalars, self.time_module, self.scalar_scale, hooked)

    def refuse_dropout(self, form: object) -> None:
        """Refuse a student with dropout for a form that subtracts two of its outputs (ValueError)."""
        if path := _dropout(self.student):
            raise ValueError(
                f"{type(form).__name__} subtracts two outputs of the student, and the dropout in "
                f"{path} would make their difference noise: set the dropout (lora.dropout, or the "
                "network's own) to 0, or use the exact derivative (ContinuousPrediction, "
                "Lagrangian: derivative=ExactJVP())"
            )

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

    def inventory(self) -> list[tuple[str, nn.Module, str]]:
        return [("teacher", self.teacher, "frozen, not saved"), *super().inventory()]

    def twin(self, name: str) -> nn.Module:
        """Return a copy of the student, or a new adapter if the student is a LoRA adapter."""
        if not isinstance(self.student.backbone, Adapter):
            return super().twin(name)
        twin = self._conditioned(self._adapter(name), ("delta", "gamma")).to(self.device)
        twin.load_state_dict(self.student.state_dict())
        return twin

    def sharded(self) -> list[nn.Module]:
        """With the teacher's backbone, where it has one; another teacher is whole in every process."""
        return super().sharded() + self._teacher_backbones()

    def _teacher_backbones(self) -> list[nn.Module]:
        try:
            return [self.teacher.backbone()]
        except ValueError:  # an analytic one
            return []

    def missing(self) -> dict[Tensor, Tensor]:
        if not self.meta_init:
            return {}
        networks = [*self.networks().values(), *self.averages.values()]
        copies = [network.get_submodule("backbone") for network in networks]
        return {
            key: value
            for copy in copies
            for key, value in meta_sources(copy, self.teacher.backbone()).items()
        }

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

    def velocity(
        self,
        z: Tensor,
        condition: Any,
        gamma: Tensor,
        interval: tuple[float, float] = (0.0, 1.0),
        rows: Tensor | None = None,
    ) -> Velocity:
        """The teacher's velocity u(x, t), guided where this recipe is.

        Args:
            z: states of the precision that the teacher is asked in: bf16-true makes others wider.
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

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        counter = self.trainer.fit_loop.total_batch_idx
        generator = training_generator(batch.seed, self.global_rank, counter, self.device)
        draw = self.draw(batch.size, generator)
        step = self.loss(draw)
        errors = {
            f"the {name} residual": residual.error for name, residual in step.residuals.items()
        }
        self.check_finite(errors | {"the loss": step.loss})
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
        checkpoint[ABOUT]["pairs"] = str(self.pairs)

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

    def configure_optimizers(self) -> torch.optim.Optimizer:
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

    def configure_model(self) -> None:
        if self.compile_backend is not None and not self._is_compiled:
            self._is_compiled = True
            hooked = {network.hooked for network in self.networks().values()}
            for network in {*hooked, *self._teacher_backbones()}:
                compile_blocks(network, self.compile_backend)
        super().configure_model()

    @torch.compiler.set_stance("force_eager")  # for a few samples nothing is compiled
    def setup(self, stage: str) -> None:
        """Ask everything once on a few samples, so that a teacher that does not fit is refused
        before training starts.
        """
        self.teacher.conditions.shard(
            self.global_rank, self.trainer.world_size if self._trainer is not None else 1
        )
        starts = (
            self.starts_from_teacher and not self.meta_init
        )  # without data there is nothing to compare
        for finding in examine(
            self.teacher, guided=self.is_guided, device=self.device, starts_student=starts
        ):
            finding.raise_if_broken()
        self._check_student()

    def _check_student(self) -> None:
        """Refuse a student that does not fit the teacher's states and conditions (ValueError)."""
        probe = Generator().manual_seed(0)
        condition = self.transfer_batch_to_device(
            self.teacher.draw_condition(2, probe), self.device, 0
        )
        x = torch.randn(2, *self.teacher.sample_shape, generator=probe).to(self.device)
        half = torch.full((2,), 0.5, device=self.device)
        try:
            with (
                torch.no_grad()
            ):  # a student without weights is the teacher's network, which has been asked already
                shape = (
                    x.shape
                    if self.meta_init
                    else self.student(x, half, condition, delta=half, gamma=half).shape
                )
        except Exception as error:
            raise ValueError(
                f"the student network fails on two states of shape {list(x.shape)} and "
                f"{described(condition)} ({type(error).__name__}: {error}): make it fit the "
                "teacher's sample_shape and conditions"
            ) from error
        if shape != x.shape:
            raise ValueError(
                f"the student network returned shape {list(shape)} for states of shape "
                f"{list(x.shape)}: a velocity has the shape of its state, [batch, *sample_shape], "
                f"sample_shape = {self.teacher.sample_shape}"
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


def _dropout(network: nn.Module) -> str:
    """The path of the first layer that drops anything out in training; empty if none does."""
    for path, layer in network.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            return path
    return ""
