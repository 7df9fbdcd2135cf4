"""The teacher's own samples as an evaluation reference: drawn with a disjoint seed, kept on disk under a content key."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics import Metric

from freeflow_lightning.data import IndexRange
from freeflow_lightning.flow import solve
from freeflow_lightning.metrics import load_reference_state, reference_state, to_uint8
from freeflow_lightning.teachers import Teacher

log = logging.getLogger(__name__)
SCHEMA = 1


class Sampler(NamedTuple):
    """How the teacher draws: one-step rule, steps of the uniform grid, guidance."""

    method: str = "heun"
    steps: int = 64
    guidance: float = 1.0

    def __call__(self, teacher: Teacher, z: Tensor, condition: Any, *, trajectory: bool = False) -> Tensor:
        """The teacher's samples for the noise z [B, ...] (all states, [steps + 1, B, ...], with `trajectory`)."""
        gamma = torch.full((len(z),), self.guidance, device=z.device) if self.guidance != 1 else None
        return solve(
            lambda x, t, c: teacher.guided(x, t, c, gamma),
            z,
            condition,
            steps=self.steps,
            method=self.method,
            trajectory=trajectory,
        )


def pictures(teacher: Teacher, x: Tensor) -> Tensor:
    """What a metric sees of samples x: decoded and quantised pictures, uint8 [B, C, H, W]; states of other ranks as they are.

    Raises:
        ValueError: samples that are not finite.
    """
    decoded = teacher.decode(x)
    if decoded.ndim == 4:
        return to_uint8(decoded)
    if not bool(torch.isfinite(decoded).all()):
        raise ValueError("samples are not finite: the network that drew them has diverged")
    return decoded


def load_reference(
    metric: Metric,
    teacher: Teacher,
    *,
    sampler: Sampler,
    count: int,
    floor_count: int,
    seed: int,
    batch_size: int = 256,
    rank: int = 0,
    world_size: int = 1,
    folder: Path | None = None,
) -> float:
    """Fill the metric's reference with `count` samples of the teacher, and return the teacher-against-teacher floor.

    The samples are those of the streams "reference" and "floor", disjoint from every evaluation stream. They are read
    from the cache where its key agrees: teacher, sampler, counts, seed, metric and feature network.

    Args:
        metric: a metric with update(images, real) whose reference states begin with "real_".
        teacher: the teacher.
        sampler: how the teacher draws.
        count: samples of the reference.
        floor_count: samples of the second draw that the floor compares with it; as many as evaluations will use.
        seed: seed of both.
        batch_size: samples per teacher call.
        rank: this process; each draws its share.
        world_size: number of processes.
        folder: of the cache; $FREEFLOW_CACHE or ~/.cache/freeflow-lightning if not given.

    Returns:
        metric(teacher's second draw, reference).
    """
    facts = {
        "schema": SCHEMA,
        "teacher": fingerprint(teacher, metric.device, sampler.guidance),
        "sampler": sampler._asdict(),
        "counts": [count, floor_count],
        "seed": seed,
        "metric": f"{type(metric).__module__}.{type(metric).__qualname__}",
        "features": _weights_hash(metric),
    }
    path = (
        folder or cache_folder()
    ) / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
    device = metric.device

    def fill(stream: str, n: int, real: bool) -> None:
        for index, _, _ in IndexRange(n, batch_size, seed, rank, world_size):
            z, condition = teacher.draw_indexed(index, seed=seed, stream=stream, device=device)
            keep = index < n
            metric.update(pictures(teacher, sampler(teacher, z, condition))[keep.to(z.device)], real=real)

    cached = read_cache(path)
    everywhere = _on_every_rank(cached is not None, world_size, device)
    if cached is not None and everywhere:
        state, floor = cached
    else:
        log.info(
            "drawing the teacher's reference: %d + %d samples, %d %s steps", count, floor_count, sampler.steps, sampler.method
        )
        metric.reset()
        fill("reference", count, True)
        fill("floor", floor_count, False)
        floor = float(metric.compute())
        with metric.sync_context(should_sync=world_size > 1):
            state = reference_state(metric)
        if rank == 0:
            write_cache(path, state, floor, facts)
    load_reference_state(metric, state if rank == 0 else {name: torch.zeros_like(value) for name, value in state.items()})
    return floor


def cache_folder() -> Path:
    """Where references are kept."""
    return Path(os.environ.get("FREEFLOW_CACHE") or Path.home() / ".cache" / "freeflow-lightning")


def read_cache(path: Path) -> tuple[dict[str, Tensor], float] | None:
    """A cached reference and floor; None where there is none or it is damaged (then it is made again, and said so)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["floor"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("the cached reference %s is damaged (%s): drawing it again", path, error)
        return None


def write_cache(path: Path, state: dict[str, Tensor], floor: float, facts: dict) -> None:
    """Write to a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(state, str(temporary), {"floor": repr(floor), "facts": json.dumps(facts)})
    temporary.replace(path)


@torch.no_grad()
def fingerprint(teacher: Teacher, device: torch.device, guidance: float = 1.0) -> str:
    """A hash of what the teacher is: its class, weights, and velocity and pictures at four fixed points to three digits.

    The points tell apart functions and settings that no weight shows.
    """
    z, condition = teacher.draw_indexed(torch.arange(4), seed=0, stream="fingerprint", device=device)
    gamma = torch.full((4,), guidance, device=z.device) if guidance != 1 else None
    u = teacher.guided(z, torch.tensor([1.0, 0.7, 0.4, 0.1], device=z.device), condition, gamma).flatten().tolist()
    decoded = teacher.decode(z)
    seen = [] if decoded is z else decoded.flatten().tolist()
    probe = ",".join(f"{value:.2e}" for value in u[:4096] + seen[:4096])
    text = f"{type(teacher).__module__}.{type(teacher).__qualname__} {_weights_hash(teacher)} {probe}"
    return hashlib.sha256(text.encode()).hexdigest()


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _on_every_rank(flag: bool, world_size: int, device: torch.device) -> bool:
    if world_size == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MIN)
    return bool(votes)
