"""MapRecipe: what a recipe of a flow map says of itself, how a step of it is run, and its map."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning.flow import Pairs, TwoTimeVelocity, Velocity, on_rows
from freeflow_lightning.nets import ScalarConditioned, map_state
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.draws import Draws
from freeflow_lightning.recipes.outputs import AuxiliaryTraining, Step
from freeflow_lightning.training.data import PriorBatch
from freeflow_lightning.training.digests import config_key
from freeflow_lightning.training.step_metrics import Speed, root_mean_square
from freeflow_lightning.training.training_checkpoint import ABOUT


class MapRecipe(Recipe):
    """Trains a flow map f(x, t, s) = x + (t - s) F(x, t, s, condition, gamma) of a teacher's ODE.

    A recipe says what a step draws and what it minimises: `draw`, `loss`, `pairs` and
    `evaluations_per_sample`. `Distillation` builds its networks and trains them.

    Attributes:
        student: the network F.
        auxiliary: a second network (x, r, condition, gamma), or None.
        guidance_range: gamma is uniform on it, per sample.
        evaluation_guidance: gamma of validation samples.
    """

    student: ScalarConditioned
    auxiliary: ScalarConditioned | None
    guidance_range: tuple[float, float]

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

    sampling = "student, 1 step"

    def __init__(self) -> None:
        super().__init__()
        self.step_watchers: dict[str, Callable[[Step], None]] = {}
        """What callbacks are told of every batch, by the callback's name."""
        self._speed = Speed()

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
        """Take one step of the method on what `draw` has drawn."""

    @abstractmethod
    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network; of the teacher's, each
        velocity costs `branches`.
        """

    def figures(self, draw: Any, step: Step) -> dict[str, Tensor | float]:
        """Return what a logged step is logged as: root mean squares of its residuals, if nothing
        else is said.
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

    def map_facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of the map beside the recipe's arguments, as plain values."""
        curves = {title: list(names) for title, names in self.curves.items()}
        return {"pairs": str(self.pairs), "starts": self.starts, "curves": curves}

    # A step

    def draws(self, generator: Generator) -> Draws:
        """Return the random numbers of one step for this teacher and guidance range."""
        return Draws(generator, self.teacher, self.guidance_range)

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """Return the mean of a figure over all processes."""
        attached = self._trainer is not None
        return self.trainer.strategy.reduce(x, reduce_op="mean") if attached else x

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        config = config_key(checkpoint["hyper_parameters"])
        checkpoint[ABOUT] |= {"map": self.map_facts(), "config_key": config}

    def on_train_epoch_start(self) -> None:
        self._speed.restart()

    def on_validation_end(self) -> None:
        self._speed.restart()

    # Its networks

    @property
    def trained(self) -> nn.Module:
        return self.student

    @property
    def is_guided(self) -> bool:
        """Whether the teacher is ever asked for a guided velocity."""
        return self.guidance_range != (1.0, 1.0)

    @property
    def branches(self) -> int:
        """Evaluations of the teacher's network for one velocity, guided or not as this recipe asks
        it.
        """
        return self.teacher.guided_evaluations if self.is_guided else 1

    def networks(self) -> Mapping[str, ScalarConditioned]:
        if self.auxiliary is None:
            return {"student": self.student}
        return {"student": self.student, "auxiliary": self.auxiliary}

    def summary_rows(self) -> list[tuple[str, nn.Module, str]]:
        return [("teacher", self.teacher, "frozen, not saved"), *super().summary_rows()]

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
        """Return the teacher's velocity u(x, t), guided where this recipe is.

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
        one = torch.ones(
            len(z), device=z.device, dtype=torch.float32
        )  # gamma in bfloat16 is another
        return self.flow_map(
            z, one, torch.zeros_like(one), condition, self.evaluation_guidance * one
        )
