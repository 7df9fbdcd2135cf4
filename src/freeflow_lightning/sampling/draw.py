"""Sampling at scale: sample i is a function of (seed, i), whatever the batch, the process or the
interruption.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import take
from freeflow_lightning.metrics import to_uint8
from freeflow_lightning.metrics.images import DivergedSamplesError
from freeflow_lightning.teachers import Teacher

ROWS = 8
"""Networks see multiples of this many samples: below it, matrix products of CPUs add up in another
order.
"""


class Draw(NamedTuple):
    """Which samples: those of (seed, stream), with drawn classes, or the given ones in turn."""

    seed: int = 0
    classes: tuple[int, ...] | None = None
    stream: str = "samples"

    def noise(
        self, teacher: Teacher, index: Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Any]:
        """Noise [B, *sample_shape] and condition of the samples with the given indices [B].

        Raises:
            ValueError: classes of a teacher without, or classes that it does not have.
        """
        z, condition = teacher.draw_indexed(
            index, seed=self.seed, stream=self.stream, device=device
        )
        if self.classes is None:
            return z, condition
        if not teacher.num_classes:
            raise ValueError("--classes: this student has no classes; leave the option out")
        teacher.conditions.of_classes(
            torch.tensor(self.classes)
        )  # all of them are checked, not this batch's alone
        labels = torch.tensor(self.classes)[index % len(self.classes)]
        return z, teacher.conditions.of_classes(labels.to(device))

    def facts(self) -> dict[str, Any]:
        """Return what tells these samples from others of the same sampler, as JSON."""
        return {"seed": self.seed, "classes": list(self.classes) if self.classes else "drawn"}


def labels_of(teacher: Teacher, condition: Any) -> Tensor | None:
    """The classes [B] of a condition; None where it is something else."""
    if not teacher.num_classes or not isinstance(condition, Tensor) or condition.ndim != 1:
        return None
    return condition.cpu()


@torch.no_grad()
def evaluate_rows(draw: Callable[[Tensor, Any], Tensor], z: Tensor, condition: Any) -> Tensor:
    """Return draw(z, condition), [B, ...], with the batch filled up to a multiple of 8 by repeated
    rows.

    So the samples are bit for bit the same in every batch on a CPU, and equal to round-off on an
    accelerator. A sampler draws, or another function of rows.
    """
    n = len(z)
    if not n % ROWS:
        return draw(z, condition)
    rows = torch.cat([torch.arange(n), torch.zeros(-n % ROWS, dtype=torch.int64)]).to(z.device)
    return draw(z[rows], take(condition, rows))[:n]


def pictures(teacher: Teacher, x: Tensor, *, batch_size: int | None = None) -> Tensor:
    """What a metric sees of samples x: decoded and quantised pictures, uint8 [B, C, H, W]; states
    of other ranks as they are.

    Args:
        teacher: decodes.
        x: samples, [B, *sample_shape].
        batch_size: samples that are decoded at once; all of them if not given.

    Raises:
        DivergedSamplesError: samples that are not finite.
    """
    return torch.cat(
        [_pictures(teacher.decode(part)) for part in x.split(batch_size or max(1, len(x)))]
    )


def _pictures(decoded: Tensor) -> Tensor:
    if decoded.ndim == 4:
        return to_uint8(decoded)
    if not bool(torch.isfinite(decoded).all()):
        raise DivergedSamplesError(
            "samples are not finite: the network that drew them has diverged"
        )
    return decoded


def draws_pictures(teacher: Teacher, device: torch.device | str = "cpu") -> bool:
    """Return whether decoded samples are pictures, [B, C, H, W]; the teacher is on the device."""
    return teacher.decode(torch.zeros(1, *teacher.sample_shape, device=device)).ndim == 4


def balanced_classes(teacher: Teacher) -> tuple[int, ...]:
    """Every class in turn (Raises: ValueError without classes)."""
    if not teacher.num_classes:
        raise ValueError("--balanced: this student has no classes; leave the option out")
    return tuple(range(teacher.num_classes))
