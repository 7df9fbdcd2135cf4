"""A student's delta and gamma folded into the biases of its stock network, which then is it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.nets import ScalarConditioned, device_of, time_embeddings
from freeflow_lightning.teachers import DiffusersTeacher


class Fold(NamedTuple):
    """The biases of a network that take the constant embeddings up: by path, before and after."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]


@torch.no_grad()
def fold(network: ScalarConditioned, gamma: float, delta: float = 1.0) -> Fold:
    """Biases with the embeddings of delta and of gamma in them, by their path in the student.

    Raises:
        ValueError: a time embedding whose last linear layer has no bias.
    """
    device = device_of(network)
    values = {
        "delta": torch.full((1,), delta, device=device),
        "gamma": torch.full((1,), gamma, device=device),
    }
    constant = sum(
        (embedder(values[name])[0] for name, embedder in network.embedders.items()),
        torch.zeros((), device=device),
    )
    before, after = {}, {}
    for path, leaf in time_embeddings(network.backbone, network.time_module).items():
        name, last = [
            (name, module) for name, module in leaf.named_modules() if isinstance(module, nn.Linear)
        ][-1]
        if last.bias is None:
            raise ValueError(
                f"the time embedding {path!r} ends without a bias, into which delta and gamma "
                f"could be folded"
            )
        key = ".".join(part for part in ("backbone", path, name, "bias") if part)
        before[key] = last.bias.clone()
        after[key] = (last.bias.to(constant.dtype) + constant).to(last.bias.dtype)
    return Fold(before, after)


@contextmanager
def apply_fold(network: nn.Module, folded: Fold) -> Iterator[None]:
    """Put the folded biases into a network, and take them out at the end."""
    _set(network, folded.after)
    try:
        yield
    finally:
        _set(network, folded.before)


def check_fold(
    network: ScalarConditioned,
    teacher: DiffusersTeacher,
    gamma: float,
    folded: Fold,
    t: float = 1.0,
    delta: float = 1.0,
) -> None:
    """See that the folded network is the student from t to t - delta (Raises: ValueError)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, *teacher.sample_shape, generator=generator)
    condition = teacher.draw_condition(2, generator)
    device = device_of(network)
    z, one = z.to(device), torch.ones(2, device=device)
    own = {name: gamma * one for name in network.native if name == "gamma"}
    with torch.no_grad():
        stock = network.backbone(z, t * one, condition, **own)
        _set(network, folded.before)
        student = network(z, t * one, condition, delta=delta * one, gamma=gamma * one)
        _set(network, folded.after)
    gap, size = float((stock - student).abs().max()), float(student.abs().max())
    tolerance = (
        2e-2 if next(network.parameters()).dtype in (torch.bfloat16, torch.float16) else 1e-3
    )
    if not gap <= tolerance * size:
        raise ValueError(
            f"delta and gamma cannot be folded into the time embedding of "
            f"{teacher.pipeline.class_name}: its stock network "
            f"would give other samples (difference {gap:.2g} of {size:.2g}); leave --pipeline out"
        )


@torch.no_grad()
def _set(network: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        network.get_parameter(name).copy_(value)
