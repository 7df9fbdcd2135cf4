"""Teacher: a velocity u(x, t, condition) in the paper's convention, and what a recipe needs to know
about it.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning.flow import (
    Guidance,
    Velocity,
    apply,
    guided_velocity,
    indexed_generators,
    indexed_noise,
    join,
)
from freeflow_lightning.nets import precision_of
from freeflow_lightning.nets.recorded import Recorded
from freeflow_lightning.teachers.conditions import Classes, Conditions, NoCondition

Network = TypeVar("Network", bound=nn.Module)


class Teacher(Recorded, nn.Module, ABC):
    """A frozen velocity field. Subclass it, set `sample_shape`, write `velocity`; the rest has
    defaults.

    The defaults fit a teacher with `num_classes` classes whose null class is the label
    `num_classes`, and one without conditions (`num_classes = 0`, the condition is None). Override
    the optional methods for anything else.

    >>> class Pull(Teacher):
    ...     sample_shape = (2,)
    ...     def velocity(self, x, t, condition):
    ...         return -x
    >>> Pull().velocity(torch.ones(1, 2), torch.ones(1), None)
    tensor([[-1., -1.]])
    """

    sample_shape: tuple[int, ...]
    num_classes: int = 0
    casts_states: ClassVar[bool] = False
    """Whether `velocity` takes states of any precision. A teacher with weights narrower than
    float32, as `--trainer.precision bf16-true` makes them, is asked in their precision otherwise.
    """
    rescale: Callable[[Tensor, Tensor], Tensor] | None = None
    """What a guided velocity is, given the linear guided velocity and the conditional one; None for
    the first itself.
    """

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """u(x, t | condition), the velocity from the prior (t = 1) to data (t = 0).

        Args:
            x: states, [B, *sample_shape].
            t: times in [0, 1], [B]; 1 is the prior.
            condition: what `draw_condition` draws: None, a tensor or a tree of tensors with the
                batch first.

        Returns:
            [B, *sample_shape]; the ODE is dx = -u dt from t = 1 down to 0.
        """

    @cached_property
    def conditions(self) -> Conditions:
        """What this teacher is conditioned on; a subclass may assign another source, such as
        Prompts.
        """
        return Classes(self.num_classes) if self.num_classes else NoCondition(type(self).__name__)

    def describe_conditions(self) -> dict[str, Any]:
        """Return what an exported folder says of the conditions; of a `draw_condition` of one's
        own, its name.
        """
        if type(self).draw_condition is Teacher.draw_condition:
            return self.conditions.describe()
        return {"kind": "prompts", "what": f"what {type(self).__name__}.draw_condition draws"}

    def draw_condition(self, n: int, generator: Generator) -> Any:
        """Draw n conditions with the generator, on its device: uniform labels [n], or None without
        classes.
        """
        return self.conditions.draw(n, generator)

    def null_condition(self, condition: Any) -> Any:
        """Return the condition that means "no condition", shaped as `condition`. Guidance needs
        it.
        """
        return self.conditions.null(condition)

    def decode(self, x: Tensor) -> Tensor:
        """Samples to pictures in [-1, 1], [B, C, H, W]; the identity unless the teacher works in a
        latent space.
        """
        return x

    def check_decoder(self) -> str:
        """Say how samples become pictures, without loading anything large; asked before training.

        Raises:
            ValueError: a decoder that does not take these samples.
            FileNotFoundError: one that is not here.
        """
        if type(self).decode is Teacher.decode:
            return "none: samples are shown as they are"
        return "its own"

    def backbone(self) -> nn.Module:
        """Return the velocity network (x, t, condition) -> u that `velocity` itself calls: what
        LoRA adapts in place.
        """
        raise ValueError(
            f"{type(self).__name__} has no network to start the student from: give the module one "
            "with `network`, for example freeflow_lightning.nets.MLP, or override backbone()"
        )

    def network(self) -> nn.Module:
        """Return a trainable copy of the velocity network (x, t, condition) -> u that student and
        auxiliary start from.
        """
        return trainable_copy(self.backbone())

    def difference_scale(self, t: Tensor) -> Tensor:
        """Return what a difference of network outputs is worth in u at t, [B] (App. A.2, "same
        scale"; see Eq. 11).

        1 for networks that predict a velocity of the linear path, as the paper's.
        """
        return torch.ones_like(t)

    def output_scale(self, t: Tensor) -> Tensor:
        """Return what the network's raw output, at its usual size of 1, is worth in u at t, [B]; 1
        for a velocity.

        |du/d(raw output)|, times the usual size where that changes with t, as a score's does. Eq.
        12 is trained in these units, and the student's learning rate is divided by the value at the
        prior.
        """
        return torch.ones_like(t)

    def draw_indexed(
        self, index: Tensor, *, seed: int, stream: str, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Any]:
        """Noise [B, *sample_shape] and condition of the samples with the given indices, on the
        device.

        Both are functions of (seed, stream, index) alone: not of the batch, the number of processes
        or the device.
        """
        z = indexed_noise(index, self.sample_shape, seed=seed, stream=stream).to(device)
        return z, self.draw_indexed_condition(index, seed=seed, stream=stream, device=device)

    def draw_indexed_condition(
        self, index: Tensor, *, seed: int, stream: str, device: torch.device | str = "cpu"
    ) -> Any:
        """Return the condition of `draw_indexed` alone."""
        with self.conditions.use_all():
            generators = indexed_generators(index, seed=seed, stream=f"{stream}/condition")
            draws = [self.draw_condition(1, generator) for generator in generators]
        return apply(lambda tensor: tensor.to(device), join(*draws))

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        own = x.dtype if self.casts_states else precision_of(self)
        if own.itemsize >= x.dtype.itemsize or own.itemsize >= torch.float32.itemsize:
            return self.velocity(x, t, condition)
        return self.velocity(x.to(own), t, condition).to(x.dtype)

    def guided_velocity(
        self,
        condition: Any,
        *,
        gamma: float | Tensor | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
        rows: Tensor | None = None,
    ) -> Velocity:
        """Return u_gamma(x, t | condition) as a function of states x [B, *sample_shape] and times t
        [B].

        Args:
            condition: of the B samples.
            gamma: guidance scale, a number or [B]; None and the number 1 leave the velocity as it
                is.
            interval: times [lo, hi] inside which guidance applies.
            rows: samples with a guidance other than 1 in force, int64 [K], where they are known:
                the others then cost no unconditional evaluation.

        >>> from freeflow_lightning.teachers import VelocityTeacher
        >>> teacher = VelocityTeacher(lambda x, t, c: c.float()[:, None] * x, (1,), num_classes=3)
        >>> u = teacher.guided_velocity(torch.tensor([1]), gamma=2.0)
        >>> u(torch.ones(1, 1), torch.ones(1))  # 2 * 1 - 1 * 3, the null class being 3
        tensor([[-1.]])
        """
        if gamma is None or (not isinstance(gamma, Tensor) and gamma == 1):
            return lambda x, t: self(x, t, condition)

        def u(x: Tensor, t: Tensor) -> Tensor:
            scale = gamma if isinstance(gamma, Tensor) else _filled(t, gamma)
            guidance = Guidance(scale.to(x.device).expand(len(x)), interval, rows)
            return self.guided_by(guidance, x, t, condition)

        return u

    @property
    def guided_evaluations(self) -> int:
        """Network evaluations of one guided velocity; an override of `guided_by` may change it."""
        return 2

    def guided_by(self, guidance: Guidance, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Return u_gamma(x, t | condition), [B, *sample_shape].

        Override it where something else than the null condition guides.
        """
        null = self.null_condition(condition)
        return guided_velocity(
            self, x, t, condition, null=null, rescale=self.rescale, **guidance._asdict()
        )


def _filled(t: Tensor, number: float) -> Tensor:
    """Return the number for each time [B], in float32 or wider, without waiting for the device."""
    return torch.full_like(t, number, dtype=torch.promote_types(t.dtype, torch.float32))


def trainable_copy(network: Network) -> Network:
    """Return a deep copy that trains: parameters keep their flags, unless all of them are frozen;
    then all are freed.
    """
    twin = copy.deepcopy(network)
    return twin if any(p.requires_grad for p in twin.parameters()) else twin.requires_grad_(True)
