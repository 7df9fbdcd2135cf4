"""Network evaluations per training sample: this package's steps beside those of related methods, counted as they run.

    python notebooks/tools/peer_evaluations.py

Each peer's step is written here from its paper, for counting alone: the calls are the method's, on small networks and noise.
One guided velocity of the teacher is two evaluations. In forward passes: a forward pass counts 1, one with its backward pass
3, a forward-mode derivative 2 (value and tangent).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd import forward_ad

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.flow import ForwardDifference, expand, interpolate, training_generator
from freeflow_lightning.nets import MLP, ScalarConditioned
from freeflow_lightning.objectives import ContinuousPrediction
from freeflow_lightning.profiling.network_calls import count_rows, record_calls
from freeflow_lightning.profiling.step_time import networks_of
from freeflow_lightning.teachers import VelocityTeacher

BATCH = 256
WORTH = {"forward": 1, "backward": 3, "derivative": 2, "derivative and backward": 6}


class Networks(NamedTuple):
    """What a peer trains with: a student with two times, a frozen guided teacher, and a network for its own samples."""

    student: nn.Module
    teacher: VelocityTeacher
    auxiliary: nn.Module

    def average(self, x: Tensor, t: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """The student's average velocity from t over delta."""
        return self.student(x, t, y, delta=delta)


def small() -> Networks:
    def net() -> MLP:
        return MLP((2,), hidden_size=16, depth=1, num_classes=10)

    return Networks(ScalarConditioned(net(), ("delta",)), VelocityTeacher(net(), (2,), 10), net())


def noise() -> tuple[Tensor, Tensor, Tensor]:
    """States, times, labels."""
    return torch.randn(BATCH, 2), torch.rand(BATCH), torch.randint(10, (BATCH,))


def meanflow(nets: Networks) -> None:
    """MeanFlow (arXiv 2505.13447, Alg. 1) as distillation: the guided teacher gives the velocity at data carried to t.

    u_tgt = v - (t - r) du/dt, the total derivative along the path by forward mode. Needs data (here: noise in its place);
    no network of its own samples.
    """
    x, t, y = noise()
    delta = t * torch.rand(BATCH)
    with torch.no_grad():
        v = nets.teacher.guided_velocity(y, gamma=torch.full((BATCH,), 1.5))(x, t)
        with (
            forward_ad.dual_level()
        ):  # from here to the fixed end t - delta: dx = -v dt, d(delta) = dt
            along = [
                forward_ad.make_dual(a, da)
                for a, da in ((x, -v), (t, torch.ones_like(t)), (delta, torch.ones_like(t)))
            ]
            total = forward_ad.unpack_dual(nets.average(along[0], along[1], y, along[2])).tangent
    output = nets.average(x, t, y, delta)
    (output - (v - expand(delta, x) * total)).square().mean().backward()


def dmd(nets: Networks, updates: int) -> None:
    """DMD (arXiv 2311.18828), without its regression onto stored pairs; with `updates` = 5 as DMD2 (2405.14867), without GAN.

    One step of the generator: its sample noised, the guided teacher's score against that of the auxiliary network. Then the
    auxiliary network learns on samples of the generator: the same one if there is one update, new ones otherwise.
    """
    z, t, y = noise()
    one = torch.ones_like(t)
    sample = z + nets.average(z, one, y, one)
    with torch.no_grad():
        x_t = interpolate(sample, torch.randn_like(z), t)
        gradient = nets.auxiliary(x_t, t, y) - nets.teacher.guided_velocity(
            y, gamma=torch.full((BATCH,), 1.5)
        )(x_t, t)
    (sample * gradient).mean().backward()
    for k in range(updates):
        if updates > 1 and k:
            with torch.no_grad():
                sample = z + nets.average(z, one, y, one)
        n = torch.randn_like(z)
        output = nets.auxiliary(interpolate(sample.detach(), n, t), t, y)
        (output - (sample.detach() - n)).square().mean().backward()


def freeflow(batches: int = 20, **settings: object) -> dict[str, dict[str, float]]:
    """FreeFlowModule's own step at Table 6's settings, the mean of several batches."""
    nets = small()
    module = FreeFlowModule(nets.teacher, **settings)  # type: ignore[arg-type]
    with record_calls(networks_of(module)) as made:
        for counter in range(batches):
            module.loss(module.draw(BATCH, training_generator(0, 0, counter)))
    return per_sample(count_rows(made), batches)


def peer(step: Callable[[Networks], None]) -> dict[str, dict[str, float]]:
    nets = small()
    with record_calls(dict(zip(("student", "teacher", "auxiliary"), nets, strict=True))) as made:
        step(nets)
    return per_sample(count_rows(made), 1)


def per_sample(rows: dict[str, dict[str, int]], batches: int) -> dict[str, dict[str, float]]:
    return {
        name: {kind: n / BATCH / batches for kind, n in kinds.items()}
        for name, kinds in rows.items()
    }


def main() -> None:
    methods = {
        "FreeFlow, discrete (Heun, N = 8)": freeflow(),
        "discrete, every row evaluated": freeflow(skip_idle_rows=False),
        "FreeFlow, discrete, guidance [1, 1]": freeflow(
            guidance_range=(1.0, 1.0), evaluation_guidance=1.0
        ),
        "FreeFlow, continuous (exact JVP)": freeflow(prediction=ContinuousPrediction()),
        "continuous, every row evaluated": freeflow(
            prediction=ContinuousPrediction(), skip_idle_rows=False
        ),
        "FreeFlow, continuous (forward difference)": freeflow(
            prediction=ContinuousPrediction(ForwardDifference())
        ),
        "MeanFlow distillation (needs data)": peer(meanflow),
        "DMD-like, one update of the auxiliary network": peer(lambda nets: dmd(nets, 1)),
        "DMD2-like, five updates": peer(lambda nets: dmd(nets, 5)),
    }
    table = Table(
        "method",
        "student f",
        "f + b",
        "jvp",
        "teacher f",
        "auxiliary f",
        "f + b",
        "in forward passes",
    )
    for name, found in methods.items():
        cells = [found.get(net, {}).get(kind, 0.0) for net, kind in COLUMNS]
        total = sum(WORTH[kind] * n for kinds in found.values() for kind, n in kinds.items())
        table.add_row(name, *(f"{n:.3g}" for n in cells), f"{total:.2f}")
    Console(width=150).print(table)


COLUMNS = [
    ("student", "forward"),
    ("student", "backward"),
    ("student", "derivative"),
    ("teacher", "forward"),
    ("auxiliary", "forward"),
    ("auxiliary", "backward"),
]

if __name__ == "__main__":
    main()
