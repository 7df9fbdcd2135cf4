"""The teacher's own samples as an evaluation reference: drawn from streams of their own, kept on
disk under a content key.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.evaluation.cache import read_cache, write_cache
from freeflow_lightning.evaluation.resources import ONE_CPU, Resources
from freeflow_lightning.evaluation.shipped_tables import feature_facts, find_shipped
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import FeatureTable, TableBuilder, merge_tables
from freeflow_lightning.sampling.draw import Draw, evaluate_rows, labels_of, pictures
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.cache_folder import cache_folder
from freeflow_lightning.training.data import IndexRange
from freeflow_lightning.training.digests import key_of

log = logging.getLogger(__name__)
SCHEMA = 2
KEPT = 10_000
"""Samples of a reference that are kept one by one, as in ADM's reference files; the moments are of
all.
"""


def teacher_table(
    sampler: TeacherSampler,
    network: nn.Module,
    *,
    count: int,
    seed: int,
    stream: str = "reference",
    classes: tuple[int, ...] | None = None,
    resources: Resources = ONE_CPU,
    folder: Path | None = None,
    advance: Callable[[int], None] | None = None,
    needs_rows: bool = True,
) -> FeatureTable | None:
    """Return the features of `count` samples of the teacher, read from the cache where its key
    agrees, drawn and kept otherwise.

    The key names everything the features depend on: teacher (weights, velocities and decoder),
    sampler, count, seed, stream, classes, feature network (class, weights, version) and precision.

    Args:
        sampler: draws, with the teacher on the device of the resources.
        network: feature network, there as well.
        count: samples, at least 2.
        seed: of the noise and classes.
        stream: "reference", or "floor" for the second draw that tells what the teacher scores
            against itself. Both are disjoint from every stream that students are evaluated on.
        classes: given to the samples in turn; drawn if not given.
        resources: where to compute, and how much at once.
        folder: of the cache; $FREEFLOW_CACHE or ~/.cache/freeflow-lightning if not given.
        advance: told the number of samples after each batch.
        needs_rows: whether the features are wanted one by one: if not, moments that ship with the
            package serve too.

    Returns:
        The table on the first process, None on the others.
    """
    which, processes, device = Draw(seed, classes, stream), resources.processes, resources.device
    facts = reference_facts(sampler, network, count, which, device)
    path = (folder or cache_folder()) / f"{key_of(facts)}.safetensors"
    table = _read_table(path) if processes.first else None
    if processes.share(table is not None):
        return table
    if classes is None and not needs_rows:  # by all: they gather sharded weights together
        table = find_shipped(sampler, network, count=count, seed=seed, stream=stream, device=device)
        if processes.share(table is not None):
            return table if processes.first else None
    if processes.first:
        way = f"{sampler.steps} {sampler.method} steps"
        log.info("drawing %d samples of the teacher (%s), %s", count, stream, way)
    table = draw_table(
        sampler, network, which, count=count, kept=KEPT, resources=resources, advance=advance
    )
    if table is not None:
        write_cache(path, table.tensors(), facts)
    return table


def reference_facts(
    sampler: TeacherSampler,
    network: nn.Module,
    count: int,
    which: Draw,
    device: torch.device | str,
) -> dict[str, Any]:
    """Return everything that the features of a teacher's samples depend on, as JSON."""
    return {
        "schema": SCHEMA,
        "teacher": fingerprint(sampler.teacher, device, sampler.guidance),
        "sampler": sampler.settings(),
        "count": count,
        "seed": which.seed,
        "stream": which.stream,
        "classes": which.classes,
        "features": feature_facts(network),
        "precision": torch.get_float32_matmul_precision(),
    }


def _read_table(path: Path) -> FeatureTable | None:
    """Return the table of a file of the cache; None where there is none, or a damaged one."""
    cached = read_cache(path)
    if cached is None:
        return None
    try:
        return FeatureTable.of_tensors(cached)
    except KeyError as error:
        log.warning(
            "the cached reference %s is damaged (it lacks %s): drawing it again", path, error
        )
        return None


def draw_table(
    sampler: Sampler,
    network: nn.Module,
    which: Draw,
    *,
    count: int,
    kept: int,
    resources: Resources = ONE_CPU,
    advance: Callable[[int], None] | None = None,
) -> FeatureTable | None:
    """Return the features of `count` samples that a sampler makes of the noise of `which`; on the
    first process, None on the others.

    Args are those of `teacher_table`; samples with an index below `kept` are kept one by one.
    """
    teacher, builder, processes = sampler.teacher, TableBuilder(network, kept), resources.processes
    share = processes.rank, processes.size
    for batch in IndexRange(count, resources.batch_size, which.seed, *share):
        z, condition = which.noise(teacher, batch.indices, resources.device)
        # padding too: sharded networks need every process
        drawn = evaluate_rows(sampler, z, condition)
        index = batch.indices[batch.indices < count]
        if not len(index):
            continue
        seen = pictures(teacher, drawn[: len(index)], batch_size=resources.decode_batch_size)
        builder.add(
            index,
            seen,
            labels_of(teacher, take(condition, torch.arange(len(index), device=z.device))),
        )
        if advance is not None:
            advance(len(index))
    parts = processes.gather(builder.part())
    return None if parts is None else merge_tables(parts)


def teacher_endpoints(
    sampler: TeacherSampler,
    which: Draw,
    index: Tensor,
    *,
    resources: Resources = ONE_CPU,
    folder: Path | None = None,
) -> Tensor:
    """Return the teacher's samples (not decoded) [B, *sample_shape] for the noise of `which` at the
    given indices, cached too.
    """
    facts = {
        "schema": SCHEMA,
        "kind": "endpoints",
        "teacher": fingerprint(sampler.teacher, resources.device, sampler.guidance),
        "sampler": sampler.settings(),
        "draw": which._asdict(),
        "index": index.tolist(),
        "precision": torch.get_float32_matmul_precision(),
    }
    path = (folder or cache_folder()) / f"{key_of(facts)}.safetensors"
    cached = read_cache(path)
    if cached is not None and "endpoints" in cached:
        return cached["endpoints"]
    parts = []
    for rows in index.split(resources.batch_size):
        z, condition = which.noise(sampler.teacher, rows, resources.device)
        parts.append(evaluate_rows(sampler, z, condition).cpu())
    endpoints = torch.cat(parts)
    write_cache(path, {"endpoints": endpoints}, facts)
    return endpoints
