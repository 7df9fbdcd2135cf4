"""Whether a teacher keeps what Teacher promises, asked on four samples: what it breaks is named,
with the way out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow import apply, take
from freeflow_lightning.teachers.backbone_check import check_backbone
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.contract_finding import (
    SAME_UP_TO,
    ContractFinding,
    Probe,
    relative_gap,
)


def check_contract(
    teacher: Teacher,
    *,
    guided: bool,
    name: str | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    starts_student: bool = True,
) -> Iterator[ContractFinding]:
    """Findings in the order in which to mend them; the first problem ends it, since it may cause
    what would follow.

    Sign and direction of time are `check_convention`'s.

    Args:
        teacher: in evaluation mode.
        guided: whether guidance will be asked of it, which takes a null condition.
        name: what to call it; its class if not given.
        device: where the teacher is.
        seed: of states and conditions.
        starts_student: whether student and auxiliary start from its backbone, which then must be
            its velocity.

    >>> from freeflow_lightning.teachers import VelocityTeacher
    >>> [finding.check for finding in check_contract(VelocityTeacher(lambda x, t, c: -x, (2,)), guided=False)][:3]
    ['shape', 'inputs', 'finite']
    """
    name = name or type(teacher).__name__
    checks = [_shape, _inputs, _finite, _deterministic, _rows, _gradient]
    if starts_student:
        checks.append(check_backbone)
    if guided:
        checks.append(_null)
    for check in [*checks, _decoder]:
        finding = check(teacher, _probe(teacher, device, seed), name)
        yield finding
        if finding.problem:
            return


def _probe(teacher: Teacher, device: torch.device | str, seed: int) -> Probe:
    generator = Generator().manual_seed(seed)
    condition = apply(lambda tensor: tensor.to(device), teacher.draw_condition(4, generator))
    x = torch.randn(4, *teacher.sample_shape, generator=generator).to(device)
    return Probe(x, torch.linspace(1, 0, 4, device=x.device), condition)


@torch.no_grad()
def _shape(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    x = take(probe.x, slice(2))
    t, condition = probe.t[:2], take(probe.condition, slice(2))
    shape = list(x.shape)
    try:
        u = teacher(x, t, condition)
    except Exception as error:  # a teacher of the user's may raise anything
        problem = (
            f"{name}.velocity fails on two states of shape {shape} and "
            f"{describe_condition(condition)} ({type(error).__name__}: {error}): make it fit the "
            "teacher's sample_shape and conditions"
        )
        return ContractFinding("shape", "it fails", problem, error)
    if not isinstance(u, Tensor):
        problem = (
            f"{name}.velocity returned {type(u).__name__}: a velocity is one tensor, [batch, "
            "*sample_shape]"
        )
        return ContractFinding("shape", type(u).__name__, problem)
    if list(u.shape) != shape:
        problem = (
            f"{name}.velocity returned shape {list(u.shape)} for states of shape {shape}: a "
            "velocity has the shape of its state, [batch, *sample_shape], sample_shape = "
            f"{teacher.sample_shape}"
        )
        return ContractFinding("shape", str(list(u.shape)), problem)
    return ContractFinding("shape", f"{list(u.shape)} for states of {shape}")


@torch.no_grad()
def _inputs(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    before = probe.x.clone()
    teacher(*probe)
    if not torch.equal(before, probe.x):
        return ContractFinding(
            "inputs",
            "changed",
            f"{name}.velocity changes its input x in place: work on a copy, x.clone()",
        )
    return ContractFinding("inputs", "left as they are")


@torch.no_grad()
def _finite(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    bad = ~torch.isfinite(teacher(*probe)).flatten(1).all(1)
    if bool(bad.any()):
        times = ", ".join(f"{t:.2g}" for t in probe.t[bad].tolist())
        problem = (
            f"{name}.velocity is not finite (NaN or infinite) at t = {times}: training asks it "
            "everywhere in [0, 1], both ends included; look for a division by t or 1 - t, "
            "damaged weights, or an overflow in half precision"
        )
        return ContractFinding("finite", f"not at t = {times}", problem)
    return ContractFinding("finite", "at t = 1, 2/3, 1/3 and 0")


@torch.no_grad()
def _deterministic(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    gap = relative_gap(teacher(*probe), teacher(*probe))
    if gap > 1e-3:
        problem = (
            f"{name}.velocity is not deterministic: two equal calls differ by {gap:.0%}: switch "
            "off dropout, label dropout and noise, also where eval() does not reach, and make it "
            "a function of x, t and condition alone"
        )
        return ContractFinding("deterministic", f"two calls differ by {gap:.0%}", problem)
    return ContractFinding("deterministic", "two equal calls agree")


@torch.no_grad()
def _rows(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    """Rows have times of their own, so a velocity that reads t of the first row only is found as
    well.
    """
    together = teacher(*probe)
    try:
        alone = torch.cat([teacher(*take(tuple(probe), slice(i, i + 1))) for i in range(4)])
    except Exception as error:  # a teacher of the user's may raise anything
        problem = (
            f"{name}.velocity fails on a single sample ({type(error).__name__}: {error}): it must "
            "take any number of rows, and use no statistics of the batch (BatchNorm in "
            "evaluation mode)"
        )
        return ContractFinding("rows", "it fails on a single sample", problem, error)
    gap = relative_gap(together, alone)
    if gap > SAME_UP_TO:
        problem = (
            f"{name}.velocity of a sample depends on the other rows of the batch: asked alone it "
            f"differs by {gap:.0%}: use each row's own t and condition, and no statistics of the "
            "batch (BatchNorm in evaluation mode)"
        )
        return ContractFinding("rows", f"alone and in a batch differ by {gap:.0%}", problem)
    return ContractFinding("rows", "a sample's velocity is its own")


def _gradient(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    with torch.no_grad():
        if teacher(*probe).requires_grad:
            problem = (
                f"{name}.velocity returns a tensor that requires grad under torch.no_grad(): it "
                "must not enable gradients"
            )
            return ContractFinding("gradient", "enabled by the teacher", problem)
    if any(p.requires_grad for p in teacher.parameters()):
        return ContractFinding(
            "gradient", "none under no_grad; training will freeze the parameters"
        )
    with torch.enable_grad():
        attached = teacher(*probe).requires_grad
    if attached:
        return ContractFinding(
            "gradient",
            "none under no_grad; it uses a trainable network that is not an attribute of the "
            "teacher",
        )
    return ContractFinding("gradient", "none: the teacher is frozen")


@torch.no_grad()
def _decoder(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    """Asked of the decoder's settings alone: no weights are loaded for it."""
    try:
        evidence = teacher.check_decoder()
    except FileNotFoundError:
        return ContractFinding("decoder", "not here: pictures will need it")
    except ValueError as error:
        return ContractFinding("decoder", "it does not fit", str(error), error)
    return ContractFinding("decoder", evidence)


@torch.no_grad()
def _null(teacher: Teacher, probe: Probe, name: str) -> ContractFinding:
    try:
        null = teacher.null_condition(probe.condition)
    except ValueError as error:
        return ContractFinding("null condition", "missing", str(error), error)
    try:
        is_alike = _shapes(null) == _shapes(probe.condition)
        u = teacher(probe.x, probe.t, null)
    except Exception as error:  # a teacher of the user's may raise anything
        problem = (
            f"{name}.velocity fails on the null condition ({type(error).__name__}: {error}): mend "
            "null_condition"
        )
        return ContractFinding("null condition", "it fails", problem, error)
    if not is_alike:
        problem = (
            f"{name}.null_condition is no condition like the others: expected "
            f"{describe_condition(probe.condition)}, got {describe_condition(null)}"
        )
        return ContractFinding("null condition", "of another shape", problem)
    if u.shape != probe.x.shape or not bool(torch.isfinite(u).all()):
        problem = (
            f"{name}.velocity of the null condition is of another shape than the states, or not "
            "finite: guidance needs it as it needs the others"
        )
        return ContractFinding("null condition", "its velocity is none", problem)
    gap = relative_gap(teacher(*probe), u)
    evidence = f"its velocity differs from the conditional one by {gap:.0%}"
    return ContractFinding("null condition", evidence)


def _shapes(condition: Any) -> Any:
    """Return the tree of a condition's shapes."""
    return apply(lambda part: part.shape, condition)


def describe_condition(condition: Any) -> str:
    """Return a condition's shape in words, for messages."""
    if isinstance(condition, Tensor):
        return f"conditions of shape {list(condition.shape)}"
    return f"conditions {type(condition).__name__}"
