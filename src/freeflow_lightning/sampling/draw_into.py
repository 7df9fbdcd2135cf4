"""Draw a folder of samples, by any number of processes: what is missing is drawn, and nothing
else.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from freeflow_lightning.sampling.draw import concat_labels, evaluate_rows, labels_of, pictures
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.sampling.sample_folder import PART, SampleFolder
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.folder_lock import lock_folder


class HasMissingParts(Protocol):
    """A folder that is filled part by part."""

    def missing(self) -> list[int]:
        """Return the parts that are not there yet, ascending."""


class IndexedDraw(Protocol):
    """Which samples: `Draw`, or `NoisedStates` for those of posteriors."""

    def noise(
        self, teacher: Teacher, index: Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Any]:
        """Noise [B, *sample_shape] and what else the sampler takes, of the given indices [B]."""

    def facts(self) -> dict[str, Any]:
        """Return what tells these samples from others of the same sampler, as JSON."""


class BatchSizes(NamedTuple):
    """Samples that the network, and a latent teacher's decoder, take at once; without influence on
    the samples.
    """

    network: int = 256
    decoder: int | None = None


def draw_into(
    folder: SampleFolder,
    sampler: Sampler,
    draw: IndexedDraw,
    *,
    sizes: BatchSizes = BatchSizes(),  # noqa: B008 (immutable)
    device: torch.device | str = "cpu",
    processes: Processes = Processes(),  # noqa: B008 (immutable)
    overwrite: bool = False,
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> None:
    """Draw the samples that a folder lacks, and finish it.

    Args:
        folder: to draw into; locked meanwhile.
        sampler: draws.
        draw: which samples.
        sizes: of batches.
        device: of the sampler.
        processes: each draws its share.
        overwrite: remove the samples that the folder holds first.
        start: told the number of samples that this process draws; returns what is told the number
            of each batch.

    Raises:
        ValueError: the folder holds other samples, or files that are not ours.
    """
    with lock_folder(folder.path, "sample") if processes.first else nullcontext():
        if processes.first:
            folder.open(overwrite=overwrite)
        parts = share_of(folder, processes)
        advance = start(sum(len(folder.indices(part)) for part in parts)) if start else None
        for group in _groups(parts, sizes.network):
            _draw_parts(folder, group, sampler, draw, sizes, device, advance)
        processes.barrier()
        if processes.first:
            folder.finish()


def share_of(folder: HasMissingParts, processes: Processes) -> list[int]:
    """Return the missing parts that this process draws; the first process looks for all of them."""
    missing = processes.share(folder.missing() if processes.first else None)
    return missing[processes.rank :: processes.size]


def _groups(parts: list[int], batch_size: int) -> Iterator[list[int]]:
    """Parts that fill one batch together."""
    together = max(1, batch_size // PART)
    for k in range(0, len(parts), together):
        yield parts[k : k + together]


def _draw_parts(
    folder: SampleFolder,
    parts: list[int],
    sampler: Sampler,
    draw: IndexedDraw,
    sizes: BatchSizes,
    device: torch.device | str,
    advance: Callable[[int], None] | None,
) -> None:
    index = torch.cat([folder.indices(part) for part in parts])
    seen, labels = [], []
    for rows in index.split(sizes.network):
        z, condition = draw.noise(sampler.teacher, rows, device)
        x = evaluate_rows(sampler, z, condition)
        seen.append(pictures(sampler.teacher, x, batch_size=sizes.decoder).cpu())
        labels.append(labels_of(sampler.teacher, condition))
        if advance is not None:
            advance(len(rows))
    lengths = [len(folder.indices(part)) for part in parts]
    images = torch.cat(seen).split(lengths)
    classes = concat_labels(labels)
    for k, part in enumerate(parts):
        folder.write(part, images[k], None if classes is None else classes.split(lengths)[k])
