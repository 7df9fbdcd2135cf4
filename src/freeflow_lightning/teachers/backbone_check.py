"""Whether a teacher's backbone is its velocity, and if not, by what they differ."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.contract_finding import (
    SAME_UP_TO,
    ContractFinding,
    Probe,
    relative_gap,
)


@torch.no_grad()
def check_backbone(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    """The student starts from this network: it must be the velocity itself, sign and time
    included.
    """
    network = _find_network(teacher)
    if network is None:
        return ContractFinding("backbone", "none: the student needs a network of its own")
    network = network.to(probe.x.device)
    x, t, condition = probe
    u = teacher(x, t, condition)
    try:
        found = network(x, t, condition)
    except Exception as error:  # a teacher of the user's may raise anything
        problem = (
            f"{name}.backbone() fails where velocity does not ({type(error).__name__}: {error}): "
            "it must be the network (x, t, condition) -> u that velocity calls"
        )
        return ContractFinding("backbone", "it fails", problem, error)
    if not isinstance(found, Tensor) or found.shape != u.shape:
        kind = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        problem = (
            f"{name}.backbone() returns {kind}, and velocity shape {list(u.shape)}: wrap the "
            "network so that it returns u itself, since the student starts from it"
        )
        return ContractFinding("backbone", kind, problem)
    gap = relative_gap(u, found)
    if gap <= SAME_UP_TO:
        return ContractFinding("backbone", "it is the velocity")
    problem = (
        f"{name}.backbone() is not the velocity that velocity() returns, which the student should "
        f"start from: they differ by {gap:.0%} on four states; "
        f"{explain_difference(lambda x, t: network(x, t, condition), u, x, t)}. Put the "
        "conversion into a module, and let velocity and backbone() both use it"
    )
    return ContractFinding("backbone", f"it differs from the velocity by {gap:.0%}", problem)


def _find_network(teacher: Teacher) -> nn.Module | None:
    """Return the network that the student starts from; None where it has to be given."""
    try:
        return teacher.backbone()
    except ValueError:  # it has none, or makes the student's in `network`
        return None if type(teacher).network is Teacher.network else teacher.network()


TIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "t": lambda t: t,
    "1 - t": lambda t: 1 - t,
    "1000 t": lambda t: 1000 * t,
    "1000 (1 - t)": lambda t: 1000 * (1 - t),
    "999 t": lambda t: 999 * t,
    "999 (1 - t)": lambda t: 999 * (1 - t),
    "t / 1000": lambda t: t / 1000,
}
"""The times that networks of other conventions take, by how one writes them."""


def explain_difference(
    backbone: Callable[[Tensor, Tensor], Tensor], u: Tensor, x: Tensor, t: Tensor
) -> str:
    """Why a backbone is not the velocity u: its sign, its time, a factor, or another prediction."""
    outputs = {}
    for label, time in TIMES.items():
        try:
            outputs[label] = backbone(x, time(t)).float()
        except Exception:  # a foreign network may raise anything at a time that is not its own
            continue
    u = u.float()
    gaps = {
        (sign, label): relative_gap(u, sign * output)
        for label, output in outputs.items()
        for sign in (1, -1)
    }
    sign, label = min(gaps, key=lambda key: gaps[key])
    if gaps[sign, label] <= SAME_UP_TO:
        parts = [f"velocity() is {'-' if sign < 0 else ''}backbone(x, {label})"]
        parts += ["the sign is the other"] if sign < 0 else []
        parts += [f"the time is {label} and not t"] if label != "t" else []
        return ": ".join([parts[0], " and ".join(parts[1:])])
    for label, output in outputs.items():
        factor = float((u * output).sum() / output.square().sum().clamp(min=1e-12))
        if relative_gap(u, factor * output) <= SAME_UP_TO:
            return f"velocity() is {factor:.4g} times backbone(x, {label}): a factor is missing"
    for label, output in outputs.items():
        if _is_mixed(u, output, x):
            return (
                f"velocity() is made of x and backbone(x, {label}): it predicts something else "
                "(noise, data, a score)"
            )
    return "neither its sign nor a factor on its output or time explains that"


def _is_mixed(u: Tensor, output: Tensor, x: Tensor) -> bool:
    """Return whether each row of u is a combination of its rows of output and x (of at least 4
    numbers).
    """
    if x[0].numel() < 4:
        return False
    rows = torch.stack([output.flatten(1), x.float().flatten(1)], dim=-1).cpu().double()
    wanted = u.flatten(1)[..., None].cpu().double()
    fit = rows @ torch.linalg.lstsq(rows, wanted, driver="gelsd").solution
    return relative_gap(wanted, fit) <= SAME_UP_TO
