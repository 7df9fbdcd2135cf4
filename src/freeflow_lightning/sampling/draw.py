"""Sampling at scale: sample i is a function of (seed, i), whatever the batch, the process or the
interruption.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import indexed_noise, take
from freeflow_lightning.metrics.images import DivergedSamplesError, to_uint8
from freeflow_lightning.sampling.counter_noise import (
    NoiseVersion,
    counter_noise,
    counter_uniforms,
)
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.teachers.conditions import Classes

NOISES: dict[NoiseVersion, Callable[..., Tensor]] = {"v1": indexed_noise, "v2": counter_noise}
ROWS = 8
"""Networks see multiples of this many samples: below it, matrix products of CPUs add up in another
order.
"""


class Draw(NamedTuple):
    """Which samples: those of (seed, stream), with drawn classes, or the given ones in turn.

    Version v1 of the noise is that of every figure, folder and cache so far; see `counter_noise`
    for v2.
    """

    seed: int = 0
    classes: tuple[int, ...] | None = None
    stream: str = "samples"
    version: NoiseVersion = "v1"

    def noise(
        self, teacher: Teacher, index: Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Any]:
        """Noise [B, *sample_shape] and condition of the samples with the given indices [B].

        Raises:
            ValueError: classes of a teacher without, or classes that it does not have.
        """
        if self.classes is None:
            return self._drawn(teacher, index, device)
        if not teacher.num_classes:
            raise ValueError("--classes: this student has no classes; leave the option out")
        # all of them are checked, not this batch's alone
        teacher.conditions.of_classes(torch.tensor(self.classes))
        labels = torch.tensor(self.classes)[index % len(self.classes)]
        z = self.states(teacher, index, device)
        return z, teacher.conditions.of_classes(labels.to(device))

    def states(self, teacher: Teacher, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Return the noise alone, [B, *sample_shape] (Raises: ValueError for another version)."""
        if self.version not in NOISES:
            raise ValueError(f"expected noise {' or '.join(NOISES)}, got {self.version!r}")
        draw = NOISES[self.version]
        return draw(index, teacher.sample_shape, seed=self.seed, stream=self.stream).to(device)

    def _drawn(
        self, teacher: Teacher, index: Tensor, device: torch.device | str
    ) -> tuple[Tensor, Any]:
        """With drawn conditions: classes by counter too in v2, others by a generator each."""
        of: dict[str, Any] = {"seed": self.seed, "stream": self.stream, "device": device}
        if self.version == "v1":
            return teacher.draw_indexed(index, **of)
        z = self.states(teacher, index, device)
        if not draws_plain_classes(teacher):
            return z, teacher.draw_indexed_condition(index, **of)
        share = counter_uniforms(index, seed=self.seed, stream=f"{self.stream}/condition")
        labels = (share * teacher.num_classes).long()
        return z, teacher.conditions.of_classes(labels.to(device))

    def facts(self) -> dict[str, Any]:
        """Return what tells these samples from others of the same sampler, as JSON; v1 is not
        said.
        """
        version = {} if self.version == "v1" else {"noise": self.version}
        classes = list(self.classes) if self.classes else "drawn"
        return {"seed": self.seed, "classes": classes} | version


def draws_plain_classes(teacher: Teacher) -> bool:
    """Return whether a teacher's conditions are classes, drawn uniformly."""
    is_own = type(teacher).draw_condition is not Teacher.draw_condition
    return type(teacher.conditions) is Classes and not is_own


def labels_of(teacher: Teacher, condition: Any) -> Tensor | None:
    """Return the classes [B] of a condition; None where it is something else."""
    if not teacher.num_classes or not isinstance(condition, Tensor) or condition.ndim != 1:
        return None
    return condition.cpu()


def concat_labels(batches: Sequence[Tensor | None]) -> Tensor | None:
    """Return the classes of all batches; None where samples have no classes."""
    known = [labels for labels in batches if labels is not None]
    return torch.cat(known) if known else None


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
    """Return what a metric sees of samples x: decoded and quantised pictures, uint8 [B, C, H, W];
    states of other ranks as they are.

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
    """Return every class in turn (Raises: ValueError without classes)."""
    if not teacher.num_classes:
        raise ValueError("--balanced: this student has no classes; leave the option out")
    return tuple(range(teacher.num_classes))
