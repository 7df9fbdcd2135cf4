"""The noise and the conditions of `FlowMap.sample`: of a seed, or of torch's generators."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Generator, Tensor

from freeflow_lightning import flow
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.teachers import Teacher

Generators = Generator | Sequence[Generator]
"""One for all samples, or one for each."""
NoiseSource = Callable[[Tensor], tuple[Tensor, Any]]
"""Noise [B, *sample_shape] of the samples with the indices [B], and their conditions."""


@final
class NoiseOfSeed:
    """Noise and conditions of sample `first` + i as a function of (seed, i).

    Args:
        teacher: says the shape, and draws conditions.
        condition: of all samples; drawn if None.
        device: where the noise is wanted.
        draw: of a seed.
        first: index of the first sample.
    """

    def __init__(
        self, teacher: Teacher, condition: Any, device: torch.device, draw: Draw, first: int
    ) -> None:
        self.teacher = teacher
        self.condition = condition
        self.draw = draw
        self.first = first
        self.device = device

    def __call__(self, index: Tensor) -> tuple[Tensor, Any]:
        """Noise and conditions of these samples."""
        place, draw = index + self.first, self.draw
        if self.condition is None:
            return draw.noise(self.teacher, place, self.device)
        z = draw.states(self.teacher, place, self.device)
        return z, flow.take(self.condition, index)


@final
class NoiseOfGenerator:
    """Noise and conditions of n samples as torch.randn draws them, once.

    Args:
        teacher: says the shape, and draws conditions.
        condition: of all samples; drawn if None.
        device: where the noise is wanted.
        n: samples.
        generator: one, or one for each sample.

    Raises:
        ValueError: another number of generators than of samples.
    """

    def __init__(
        self,
        teacher: Teacher,
        condition: Any,
        device: torch.device,
        n: int,
        generator: Generators,
    ) -> None:
        shape = tuple(teacher.sample_shape)
        if isinstance(generator, Generator):
            self.noise = draw_noise((n, *shape), generator).to(device)
            first = generator
        else:
            refuse_generators(generator, n)
            self.noise = torch.stack([draw_noise(shape, each).to(device) for each in generator])
            first = generator[0]
        if condition is None:
            condition = draw_conditions(teacher, first, n, device)
        self.condition = condition

    def __call__(self, index: Tensor) -> tuple[Tensor, Any]:
        """Noise and conditions of these samples."""
        return self.noise[index.to(self.noise.device)], flow.take(self.condition, index)


def refuse_generators(given: Any, n: int) -> None:
    """Raise a ValueError for what is not a list of a torch.Generator for each of n samples."""
    listed = given if isinstance(given, list | tuple) else [given]
    others = {type(each).__name__ for each in listed if not isinstance(each, Generator)}
    if others or len(listed) != n:
        found = f"a {' and a '.join(sorted(others))}" if others else str(len(listed))
        raise ValueError(
            f"expected one generator, or one for each of {n} samples, got {found}: give "
            "torch.Generator().manual_seed(0)"
        )


def draw_noise(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """N(0, I) of a shape, on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)


def draw_conditions(teacher: Teacher, generator: Generator, n: int, device: torch.device) -> Any:
    """Conditions [n] by a generator of the CPU that the given one seeds; None without any."""
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    drawn = teacher.draw_condition(n, Generator().manual_seed(int(seed)))
    return flow.apply(lambda part: part.to(device), drawn)


def refuse_seed(seed: int, first: int) -> None:
    """Raise a ValueError where a generator leaves a seed without effect."""
    if seed or first:
        raise ValueError(
            f"a generator takes the place of the seed: leave seed={seed} and first={first} out"
        )
