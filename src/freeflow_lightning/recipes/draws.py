"""Draws: the random numbers of one training step, each a function of one generator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow import Samples, host_generator
from freeflow_lightning.teachers import Teacher


class Draws:
    """Draws noise, conditions and guidance scales for a teacher's states.

    Noise is drawn on the generator's device. Scalars are drawn on the host (with `host`), which can
    then select rows by them without waiting; `to_device` moves them.

    Args:
        generator: the step's; the numbers depend on it and on the order of the calls alone.
        teacher: gives the shape of a state and the conditions.
        guidance_range: gamma is uniform on [low, high].
    """

    def __init__(
        self,
        generator: Generator,
        teacher: Teacher,
        guidance_range: tuple[float, float],
    ) -> None:
        self.generator = generator
        self.teacher = teacher
        self.guidance_range = guidance_range
        self.host = host_generator(generator)

    def noise(self, n: int) -> Tensor:
        """N(0, I) states [n, *sample_shape]; 64-true trains on the numbers of 32-true."""
        precision = torch.get_default_dtype()
        drawn = torch.float32 if precision == torch.float64 else precision
        shape, device = (n, *self.teacher.sample_shape), self.generator.device
        noise = torch.randn(shape, generator=self.generator, device=device, dtype=drawn)
        return noise.to(precision)

    def condition(self, n: int) -> Any:
        """Conditions of n samples, as the teacher draws them."""
        return self.teacher.draw_condition(n, self.generator)

    def data(self, samples: Samples, n: int) -> tuple[Tensor, Any]:
        """n samples of a data set, [n, *sample_shape], and the conditions of their classes.

        Raises:
            ValueError: samples of another shape than the teacher's, or without the classes it has.
        """
        x, labels = samples.draw(n, self.host)
        if x.shape[1:] != tuple(self.teacher.sample_shape):
            raise ValueError(
                f"expected data of the teacher's shape {list(self.teacher.sample_shape)}, got "
                f"{list(x.shape[1:])}: use samples that are prepared as the teacher's were"
            )
        if self.teacher.num_classes and labels is None:
            raise ValueError(
                f"expected data with labels for a teacher of {self.teacher.num_classes} classes, "
                f"got none: return them from {type(samples).__name__}.draw"
            )
        condition = None
        if labels is not None and self.teacher.num_classes:
            condition = self.teacher.conditions.of_classes(self.to_device(labels))
        return self.to_device(x).to(torch.get_default_dtype()), condition

    def starts(self, samples: Samples | None, n: int) -> tuple[Tensor, Any]:
        """Return what states are made of, with its conditions: `data` where there is some, else
        noise.
        """
        if samples is None:
            return self.noise(n), self.condition(n)
        return self.data(samples, n)

    def guidance(self, n: int) -> Tensor:
        """Guidance scales gamma, float32 [n] on the host."""
        low, high = self.guidance_range
        return low + (high - low) * torch.rand(n, generator=self.host, dtype=torch.float32)

    def prior(self, n: int) -> tuple[Tensor, Any, Tensor]:
        """Noise, conditions and guidance scales (on the host) of n samples."""
        return self.noise(n), self.condition(n), self.guidance(n)

    def to_device(self, x: Tensor) -> Tensor:
        """Move numbers of the host to the generator's device."""
        return x.to(self.generator.device, non_blocking=True)


def pick_times(times: Sequence[float], place: Tensor) -> Tensor:
    """Return the times with the given numbers [B], float32 or wider [B] whatever the networks'
    precision, without waiting for the device.
    """
    wide = torch.promote_types(torch.get_default_dtype(), torch.float32)
    return torch.tensor(times, dtype=wide).to(place.device, non_blocking=True)[place]


def select_rows(mask: Tensor, device: torch.device, least: int = 0) -> Tensor | None:
    """Indices on the device of the rows of a mask on the host, `least` of them at least; None for
    all rows.
    """
    rows = mask.nonzero()[:, 0]
    if len(rows) == len(mask):
        return None
    return (rows if len(rows) >= least else torch.arange(least)).to(device, non_blocking=True)
