"""Score identity distillation (SiD, arXiv 2404.04057) beside DMD2 without its GAN, in one step on the embedded faces.

    python notebooks/tools/sid_trial.py OUTPUT.json [units=2300] [rates=0.5,1,2] [alphas=1] [seeds=0]

Both have the settings of configs/methods/dmd2.yaml, the student's rate times each of `rates`, and train for `units` network
evaluations per row of a batch of 32: a backward pass counts as two, through the frozen teacher and the auxiliary network too.
FID is that of 3000 samples of an averaged student to the real faces that were held out. Writes OUTPUT.json run by run.
"""

import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from freeflow_lightning import DMDModule
from freeflow_lightning.examples.faces.data import REFERENCE
from freeflow_lightning.flow import expand, flow_map, interpolate, training_generator
from freeflow_lightning.metrics import FacesFeatures, Moments, frechet_distance, to_uint8
from freeflow_lightning.objectives import auxiliary, residual
from freeflow_lightning.recipes.correction import equalise_auxiliary, noising_velocity
from freeflow_lightning.recipes.dmd import DMDDraw
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.teachers import SiTTeacher

UPDATES = 5  # of the auxiliary network for one of the student, DMDModule's default
DMD_COST = UPDATES * (1 + 3) + 2 + 1  # student, auxiliary; the student's backward pass, the teacher
SID_COST = DMD_COST + 2 + 2  # and the backward passes through teacher and auxiliary

Loss = Callable[[DMDModule, DMDDraw], Tensor]


def identity(x0: Tensor, n: Tensor, u: Tensor, v_n: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) |u - v_N|^2 + < u - v_N, v_N - (x0 - n) >, term by term: SiD's loss over r^2.

    The denoisers D = x_r + r u differ by r times this, and x_r + r v_N - x0 is r (v_N - (x0 - n)).
    """
    difference = u - v_n
    return difference * ((1 - alpha) * difference + v_n - (x0 - n))


def check_closed_form() -> None:
    """Of Gaussians: twice the gradient is that of E |u - v_N|^2 at alpha 1/2, and at 1 that with the law of x_r held."""
    nodes, shares = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(4))
    z, n = torch.cartesian_prod(nodes, nodes).T
    share = torch.cartesian_prod(shares, shares).prod(1)

    def velocity(x: Tensor, r: float, mean: Tensor | float, scale: Tensor | float) -> Tensor:
        slope = ((1 - r) * scale**2 - r) / ((1 - r) ** 2 * scale**2 + r**2)
        return mean + slope * (x - (1 - r) * mean)

    law = torch.tensor([-0.3, 1.2], dtype=torch.float64, requires_grad=True)
    x0 = law[0] + law[1] * z
    for r, (alpha, is_held) in product((0.1, 0.5, 0.9), ((0.5, False), (1.0, True))):
        x_r = (1 - r) * x0 + r * n  # a quadratic integrand: four nodes are exact
        u, v_n = velocity(x_r, r, 0.7, 0.4), velocity(x_r, r, *law.detach())
        got = 2 * (share * identity(x0, n, u, v_n, alpha)).sum()
        x_r = x_r.detach() if is_held else x_r
        fisher = (share * (velocity(x_r, r, 0.7, 0.4) - velocity(x_r, r, *law)).square()).sum()
        gradients = [torch.autograd.grad(each, law, retain_graph=True)[0] for each in (got, fisher)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def sid(alpha: float) -> Loss:
    """SiD's loss of the student with DMD's weight, and the auxiliary's own, see Eq. 12."""

    def loss(module: DMDModule, draw: DMDDraw) -> Tensor:
        rows = draw.rows
        one = torch.ones_like(rows.r)
        with torch.set_grad_enabled(module.moves_student):
            output = module.average(rows.z, one, 0 * one, rows.condition, rows.gamma)
        x0 = flow_map(rows.z, output.detach(), one).requires_grad_(module.moves_student)
        x_r = interpolate(x0, rows.n, rows.r)
        v_n = noising_velocity(module, rows)(x_r, rows.r)
        learned = auxiliary(lambda *_: v_n, x0, rows.n, rows.r)
        learns = equalise_auxiliary(module, learned, rows.r).surrogate().mean()
        if not module.moves_student:
            return learns
        u = module.teacher_at(rows.z, rows.condition, rows.gamma)(x_r, rows.r)
        weight = rows.r * module.weight(x0, x_r, u, rows.r).detach()
        value = (expand(weight, x0) * identity(x0, rows.n, u, v_n, alpha)).sum()
        (slope,) = torch.autograd.grad(value, x0, retain_graph=True)
        return learns + residual(output, slope).surrogate().mean() / module.student_scale

    return loss


def train(loss: Loss, cost: int, units: float, rate: float, seed: int) -> tuple[DMDModule, float]:
    """Return the trained module, its student averaged over the steps, and the CPU seconds of a step."""
    torch.manual_seed(seed)
    module = DMDModule(
        SiTTeacher("embedded:faces"),
        guidance_range=(1.0, 1.0),
        evaluation_guidance=1.0,
        student_lr=rate * 7e-4,
        auxiliary_lr=4e-3,
    )
    optimizer = module.configure_optimizers()
    average = deepcopy(module.student)
    steps, start = UPDATES * round(units / cost), time.process_time()
    for step in range(steps):
        module.moves_student = (step + 1) % UPDATES == 0
        optimizer.zero_grad()
        loss(module, module.draw(32, training_generator(seed, 0, step))).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), module.student.parameters(), strict=True):
                mean.lerp_(weight, 1 - min(0.99, (step + 1) / (step + 10)))
    module.student = average
    return module, (time.process_time() - start) / steps


@torch.no_grad()
def fid(module: DMDModule) -> float:
    network, seen = FacesFeatures(), []
    for index in torch.arange(3000).split(500):
        z, condition = Draw().noise(module.teacher, index)
        seen.append(network(to_uint8(module.generate(z, condition))))
    features = torch.cat(seen).double()
    with np.load(REFERENCE) as moments:
        real = Moments(torch.from_numpy(moments["mu"]), torch.from_numpy(moments["sigma"]))
    return float(frechet_distance(features.mean(0), features.T.cov(), *real))


def main() -> None:
    output, *rest = sys.argv[1:]
    defaults = {"units": "2300", "rates": "0.5,1,2", "alphas": "1", "seeds": "0"}
    settings = defaults | dict(each.split("=", 1) for each in rest)
    numbers = {name: [float(each) for each in said.split(",")] for name, said in settings.items()}
    methods: dict[str, tuple[Loss, int]] = {"DMD2": (lambda m, draw: m.loss(draw).loss, DMD_COST)}
    for alpha in numbers["alphas"]:
        methods[f"SiD, alpha {alpha:g}"] = (sid(alpha), SID_COST)
    check_closed_form()
    lines = []
    for seed, rate, name in product(numbers["seeds"], numbers["rates"], methods):
        module, seconds = train(*methods[name], numbers["units"][0], rate, int(seed))
        lines.append({"method": name, "rate": rate, "seed": int(seed), "seconds": seconds})
        lines[-1]["fid"] = fid(module)
        print(lines[-1], flush=True)
        Path(output).write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
