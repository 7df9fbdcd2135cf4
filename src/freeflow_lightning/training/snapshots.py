"""Snapshots of a run's averages, and the average of any length that is made of them."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

from freeflow_lightning.training.power_averages import (
    Combination,
    PowerProfile,
    combine_profiles,
    find_exponent,
)
from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint

SNAPSHOTS = "ema_snapshots"
"""The folder in a run's that holds them."""
POST_HOC = "post_hoc_ema"
"""The key of a checkpoint under which stands which snapshots its run has written."""


class LengthAverage(NamedTuple):
    """The average of a length.

    Args:
        weights: by the network's own names.
        error: distance of its profile from the wanted one, relative; 0 is exact.
        snapshots: how many moments of the run it is made of.
    """

    weights: dict[str, Tensor]
    error: float
    snapshots: int


def length_name(length: float) -> str:
    """Return the name of an average of a length in the checkpoint.

    >>> length_name(0.05)
    'ema_length_0_05'
    """
    return f"ema_length_{length}".replace(".", "_")


def snapshot_name(step: int) -> str:
    """Return the file of a step's averages.

    >>> snapshot_name(5000)
    'step_00005000.safetensors'
    """
    return f"step_{step:08d}.safetensors"


def make_average(checkpoint: TrainingCheckpoint, length: float) -> LengthAverage:
    """Return the average of a length up to a checkpoint's step, of its own averages and its run's
    snapshots.

    Raises:
        FileNotFoundError: a snapshot that the checkpoint names is missing.
        ValueError: a run without PostHocEMA, or a length outside (0, 0.2886].
    """
    exponent = find_exponent(length)
    facts = checkpoint.content.get(POST_HOC)
    if facts is None:
        raise ValueError(
            f"{checkpoint.path} holds no averages to make one of length {length} of: train with "
            "the callback PostHocEMA, or name one of its averages"
        )
    now = checkpoint.content["global_step"]
    if now <= facts["begun"]:
        raise ValueError(f"{checkpoint.path}: its averages begin at step {now}, train on first")
    exponents = {length_name(known): find_exponent(known) for known in facts["lengths"]}
    steps = [*(step for step in facts["steps"] if step < now), now]
    places = [(step, name) for step in steps for name in exponents]
    held = [PowerProfile(step - facts["begun"], exponents[name]) for step, name in places]
    made = combine_profiles(PowerProfile(now - facts["begun"], exponent), held)
    weights = _sum_up(checkpoint, facts, places, made)
    return LengthAverage(weights, made.error, len(steps))


def _sum_up(
    checkpoint: TrainingCheckpoint,
    facts: dict[str, Any],
    places: list[tuple[int, str]],
    made: Combination,
) -> dict[str, Tensor]:
    """Return the sum of averages, by place and step, one in memory beside it at a time."""
    now = places[-1][0]
    total = checkpoint.weights(f"averages.{places[-1][1]}.")
    averaged = [key for key, value in total.items() if value.is_floating_point()]
    for key in averaged:
        total[key] = total[key] * made.coefficients[-1]
    for (step, name), coefficient in zip(places[:-1], made.coefficients[:-1], strict=True):
        if step == now:
            part = checkpoint.weights(f"averages.{name}.")
            for key in averaged:
                total[key].add_(part[key], alpha=coefficient)
            continue
        with safe_open(_find_snapshot(checkpoint, facts, step), "pt") as file:
            for key in averaged:
                total[key].add_(file.get_tensor(f"{name}.{key}"), alpha=coefficient)
    return total


def _find_snapshot(checkpoint: TrainingCheckpoint, facts: dict[str, Any], step: int) -> Path:
    """Return the file of a step: in the run's folder, wherever that is now, or where it was
    written.
    """
    run = checkpoint.path.resolve().parent.parent
    tried = [run / SNAPSHOTS, Path(facts["folder"])]
    for folder in tried:
        if (folder / snapshot_name(step)).is_file():
            return folder / snapshot_name(step)
    raise FileNotFoundError(
        f"no snapshot {snapshot_name(step)} in {' or '.join(map(str, tried))}: the checkpoint "
        "names it; put the run's ema_snapshots beside its checkpoints"
    )
