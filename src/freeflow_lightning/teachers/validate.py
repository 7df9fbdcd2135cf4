"""Whether a teacher keeps what Teacher promises, asked on four samples: what it breaks is named,
with the way out.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow import apply, take
from freeflow_lightning.teachers.base import Teacher


class Finding(NamedTuple):
    """One promise and whether the teacher keeps it.

    Args:
        check: the promise in a word or two.
        evidence: what was seen.
        problem: what is broken and how to mend it; None where nothing is.
        cause: the teacher's own error, if it raised one.
    """

    check: str
    evidence: str
    problem: str | None = None
    cause: Exception | None = None

    def raise_if_broken(self) -> None:
        """Raise the problem as a ValueError."""
        if self.problem:
            raise ValueError(self.problem) from self.cause


class Probe(NamedTuple):
    """States [4, *sample_shape] at the times 1, 2/3, 1/3, 0, with their conditions."""

    x: Tensor
    t: Tensor
    condition: Any


def examine(
    teacher: Teacher,
    *,
    guided: bool,
    name: str | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    starts_student: bool = True,
) -> Iterator[Finding]:
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
    >>> [finding.check for finding in examine(VelocityTeacher(lambda x, t, c: -x, (2,)), guided=False)][:3]
    ['shape', 'inputs', 'finite']
    """
    name = name or type(teacher).__name__
    checks = [_shape, _inputs, _finite, _deterministic, _rows, _gradient]
    if starts_student:
        checks.append(_backbone)
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
def _shape(teacher: Teacher, probe: Probe, name: str) -> Finding:
    x = take(probe.x, slice(2))
    t, condition = probe.t[:2], take(probe.condition, slice(2))
    shape = list(x.shape)
    try:
        u = teacher(x, t, condition)
    except Exception as error:
        problem = (
            f"{name}.velocity fails on two states of shape {shape} and {described(condition)} "
            f"({type(error).__name__}: {error}): make it fit the teacher's sample_shape and "
            f"conditions"
        )
        return Finding("shape", "it fails", problem, error)
    if not isinstance(u, Tensor):
        problem = f"{name}.velocity returned {type(u).__name__}: a velocity is one tensor, [batch, *sample_shape]"
        return Finding("shape", type(u).__name__, problem)
    if list(u.shape) != shape:
        problem = (
            f"{name}.velocity returned shape {list(u.shape)} for states of shape {shape}: a "
            "velocity has the shape of its state, [batch, *sample_shape], sample_shape = "
            f"{teacher.sample_shape}"
        )
        return Finding("shape", str(list(u.shape)), problem)
    return Finding("shape", f"{list(u.shape)} for states of {shape}")


@torch.no_grad()
def _inputs(teacher: Teacher, probe: Probe, name: str) -> Finding:
    before = probe.x.clone()
    teacher(*probe)
    if not torch.equal(before, probe.x):
        return Finding(
            "inputs",
            "changed",
            f"{name}.velocity changes its input x in place: work on a copy, x.clone()",
        )
    return Finding("inputs", "left as they are")


@torch.no_grad()
def _finite(teacher: Teacher, probe: Probe, name: str) -> Finding:
    bad = ~torch.isfinite(teacher(*probe)).flatten(1).all(1)
    if bool(bad.any()):
        times = ", ".join(f"{t:.2g}" for t in probe.t[bad].tolist())
        problem = (
            f"{name}.velocity is not finite (NaN or infinite) at t = {times}: training asks it "
            "everywhere in [0, 1], both ends included; look for a division by t or 1 - t, "
            "damaged weights, or an overflow in half precision"
        )
        return Finding("finite", f"not at t = {times}", problem)
    return Finding("finite", "at t = 1, 2/3, 1/3 and 0")


@torch.no_grad()
def _deterministic(teacher: Teacher, probe: Probe, name: str) -> Finding:
    gap = _gap(teacher(*probe), teacher(*probe))
    if gap > 1e-3:
        problem = (
            f"{name}.velocity is not deterministic: two equal calls differ by {gap:.0%}: switch "
            "off dropout, label dropout and noise, also where eval() does not reach, and make it "
            "a function of x, t and condition alone"
        )
        return Finding("deterministic", f"two calls differ by {gap:.0%}", problem)
    return Finding("deterministic", "two equal calls agree")


@torch.no_grad()
def _rows(teacher: Teacher, probe: Probe, name: str) -> Finding:
    """Rows have times of their own, so a velocity that reads t of the first row only is found as
    well.
    """
    together = teacher(*probe)
    try:
        alone = torch.cat(
            [
                teacher(*(take(part, slice(i, i + 1)) for part in probe))
                for i in range(len(together))
            ]
        )
    except Exception as error:
        problem = (
            f"{name}.velocity fails on a single sample ({type(error).__name__}: {error}): it must "
            "take any number of rows, and use no statistics of the batch (BatchNorm in "
            "evaluation mode)"
        )
        return Finding("rows", "it fails on a single sample", problem, error)
    gap = _gap(together, alone)
    if gap > 0.02:
        problem = (
            f"{name}.velocity of a sample depends on the other rows of the batch: asked alone it "
            f"differs by {gap:.0%}: use each row's own t and condition, and no statistics of the "
            "batch (BatchNorm in evaluation mode)"
        )
        return Finding("rows", f"alone and in a batch differ by {gap:.0%}", problem)
    return Finding("rows", "a sample's velocity is its own")


def _gradient(teacher: Teacher, probe: Probe, name: str) -> Finding:
    with torch.no_grad():
        if teacher(*probe).requires_grad:
            problem = f"{name}.velocity returns a tensor that requires grad under torch.no_grad(): it must not enable gradients"
            return Finding("gradient", "enabled by the teacher", problem)
    if any(p.requires_grad for p in teacher.parameters()):
        return Finding("gradient", "none under no_grad; training will freeze the parameters")
    with torch.enable_grad():
        attached = teacher(*probe).requires_grad
    if attached:
        return Finding(
            "gradient",
            "none under no_grad; it uses a trainable network that is not an attribute of the "
            "teacher",
        )
    return Finding("gradient", "none: the teacher is frozen")


Asked = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def _backbone(teacher: Teacher, probe: Probe, name: str) -> Finding:
    """The student starts from this network: it must be the velocity itself, sign and time included."""
    try:
        network = teacher.backbone()
    except ValueError:  # it has none, or makes the student's in `network`
        if type(teacher).network is Teacher.network:
            return Finding("backbone", "none: the student needs a network of its own")
        network = teacher.network().to(probe.x.device)
    x, t, condition = probe
    u = teacher(x, t, condition)

    def asked(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, condition)

    try:
        found = asked(x, t)
    except Exception as error:
        problem = (
            f"{name}.backbone() fails where velocity does not ({type(error).__name__}: {error}): "
            "it must be the network (x, t, condition) -> u that velocity calls"
        )
        return Finding("backbone", "it fails", problem, error)
    if not isinstance(found, Tensor) or found.shape != u.shape:
        kind = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        problem = (
            f"{name}.backbone() returns {kind}, and velocity shape {list(u.shape)}: wrap the "
            "network so that it returns u itself, since the student starts from it"
        )
        return Finding("backbone", kind, problem)
    gap = _gap(u, found)
    if gap <= SAME:
        return Finding("backbone", "it is the velocity")
    problem = (
        f"{name}.backbone() is not the velocity that velocity() returns, which the student should "
        f"start from: they differ by {gap:.0%} on four states; {_cause(asked, u, x, t)}. Put the "
        "conversion into a module, and let velocity and backbone() both use it"
    )
    return Finding("backbone", f"it differs from the velocity by {gap:.0%}", problem)


SAME = 0.02
"""Relative difference up to which two evaluations are the same function: bfloat16 makes them differ
by less.
"""
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


def _cause(backbone: Asked, u: Tensor, x: Tensor, t: Tensor) -> str:
    """Why a backbone is not the velocity u: its sign, its time, a factor, or another prediction."""
    outputs = {}
    for label, time in TIMES.items():
        try:
            outputs[label] = backbone(x, time(t)).float()
        except Exception:  # a time that it cannot take is not its time
            continue
    u = u.float()
    gaps = {
        (sign, label): _gap(u, sign * output)
        for label, output in outputs.items()
        for sign in (1, -1)
    }
    sign, label = min(gaps, key=lambda key: gaps[key])
    if gaps[sign, label] <= SAME:
        parts = [f"velocity() is {'-' if sign < 0 else ''}backbone(x, {label})"]
        parts += ["the sign is the other"] if sign < 0 else []
        parts += [f"the time is {label} and not t"] if label != "t" else []
        return ": ".join([parts[0], " and ".join(parts[1:])])
    for label, output in outputs.items():
        factor = float((u * output).sum() / output.square().sum().clamp(min=1e-12))
        if _gap(u, factor * output) <= SAME:
            return f"velocity() is {factor:.4g} times backbone(x, {label}): a factor is missing"
    for label, output in outputs.items():
        if _is_mixed(u, output, x):
            return f"velocity() is made of x and backbone(x, {label}): it predicts something else (noise, data, a score)"
    return "neither its sign nor a factor on its output or time explains that"


def _is_mixed(u: Tensor, output: Tensor, x: Tensor) -> bool:
    """Whether each row of u is a combination of its rows of output and x (of at least 4 numbers)."""
    if x[0].numel() < 4:
        return False
    rows = torch.stack([output.flatten(1), x.float().flatten(1)], dim=-1).double().cpu()
    wanted = u.flatten(1)[..., None].double().cpu()
    fit = rows @ torch.linalg.lstsq(rows, wanted, driver="gelsd").solution
    return _gap(wanted, fit) <= SAME


@torch.no_grad()
def _decoder(teacher: Teacher, probe: Probe, name: str) -> Finding:
    """Asked of the decoder's settings alone: no weights are loaded for it."""
    try:
        evidence = teacher.check_decoder()
    except FileNotFoundError:
        return Finding("decoder", "not here: pictures will need it")
    except ValueError as error:
        return Finding("decoder", "it does not fit", str(error), error)
    return Finding("decoder", evidence)


@torch.no_grad()
def _null(teacher: Teacher, probe: Probe, name: str) -> Finding:
    try:
        null = teacher.null_condition(probe.condition)
    except ValueError as error:
        return Finding("null condition", "missing", str(error), error)
    try:
        alike: list[bool] = []

        def compare(a: Tensor, b: Tensor) -> Tensor:
            alike.append(a.shape == b.shape)
            return a

        apply(compare, probe.condition, null)
        u = teacher(probe.x, probe.t, null)
    except Exception as error:
        problem = f"{name}.velocity fails on the null condition ({type(error).__name__}: {error}): mend null_condition"
        return Finding("null condition", "it fails", problem, error)
    if not all(alike) or u.shape != probe.x.shape or not bool(torch.isfinite(u).all()):
        expected = described(probe.condition)
        problem = (
            f"{name}.null_condition is no condition like the others: "
            f"expected {expected}, {described(null)}"
        )
        return Finding("null condition", "of another shape, or its velocity is not finite", problem)
    return Finding(
        "null condition",
        f"its velocity differs from the conditional one by {_gap(teacher(*probe), u):.0%}",
    )


def described(condition: Any) -> str:
    """A condition's shape in words, for messages."""
    if isinstance(condition, Tensor):
        return f"conditions of shape {list(condition.shape)}"
    return f"conditions {type(condition).__name__}"


def _gap(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||a||, 0 where both vanish."""
    size = float(a.float().norm())
    gap = float((a.float() - b.float()).norm())
    return gap / size if size else gap
