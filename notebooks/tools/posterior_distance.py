"""How far the draws of small students of PosteriorModule are from exact posteriors of Gaussian mixtures, in one and two
dimensions.

    python notebooks/tools/posterior_distance.py OUTPUT.json [steps=800] [seeds=3]

Each seed trains a student of each mixture without data, batches of 256 and no average. W1 is exact: the cheapest
assignment of 512 draws to 512 of p(x0 | x_t), in its mean over 8 states x_t of the mixture noised to t. Beside the
student stand other exact draws (what 512 draws tell), N(0, I), and the one point that the teacher's ODE, the
deterministic map, goes to. Prints a Markdown table.
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor

from freeflow_lightning import PosteriorModule
from freeflow_lightning.flow import renoise, solve
from freeflow_lightning.nets import MLP
from freeflow_lightning.students.posterior_draws import draw_posterior
from freeflow_lightning.teachers import GaussianMixtureTeacher

TIMES = (0.3, 0.6, 0.9, 1.0)
STATES, DRAWS, BATCH, RATE = 8, 512, 256, 3e-3
WEIGHTS = [0.45, 0.35, 0.2]
MIXTURES = {
    "1": GaussianMixtureTeacher([[1.2], [-1.0], [0.1]], [0.25, 0.4, 0.15], WEIGHTS),
    "2": GaussianMixtureTeacher([[1.2, 0.2], [-1.0, 0.8], [0.1, -1.1]], [0.25, 0.4, 0.15], WEIGHTS),
}
"""By their dimension."""

Distances = dict[str, float]
"""W1 to the exact posterior by who draws."""


def train(teacher: GaussianMixtureTeacher, steps: int, seed: int) -> PosteriorModule:
    """A student of the mixture, from a network of random weights."""
    torch.manual_seed(seed)
    network = MLP(teacher.sample_shape, hidden_size=64, depth=3)
    module = PosteriorModule(
        teacher,
        network,
        guidance_range=(1.0, 1.0),
        evaluation_guidance=1.0,
        student_lr=RATE,
    )
    optimizer = torch.optim.Adam(module.student.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        module.loss(module.draw(BATCH, generator)).loss.backward()
        optimizer.step()
        schedule.step()
    return module


def wasserstein(drawn: Tensor, exact: Tensor) -> float:
    """W1 of as many draws as exact ones, [N, d] each: the mean length of the cheapest assignment."""
    lengths = torch.cdist(drawn, exact)
    rows, columns = linear_sum_assignment(lengths.numpy())
    return float(lengths[rows, columns].mean())


@torch.no_grad()
def measure(module: PosteriorModule, t: float, seed: int) -> Distances:
    """The mean over states of each W1."""
    teacher, generator = module.teacher, Generator().manual_seed(1000 + seed)
    assert isinstance(teacher, GaussianMixtureTeacher)
    shape, time = (DRAWS, *teacher.sample_shape), torch.full((1,), t)
    found: dict[str, list[float]] = {}
    for _ in range(STATES):
        n = torch.randn(1, *teacher.sample_shape, generator=generator)
        x = renoise(teacher.sample(1, generator), n, time)
        exact, again = teacher.posterior(x, time).sample(2 * DRAWS, generator)[:, 0].chunk(2)
        e = torch.randn(shape, generator=generator)
        one, four = (
            draw_posterior(module.student, e, x.expand(shape), t, None, 1.0, k) for k in (1, 4)
        )
        point = solve(teacher.velocity, x, grid=torch.linspace(t, 0, 65, dtype=torch.float64))
        drawn = {
            "student, 1 step": one,
            "student, 4 steps": four,
            "exact draws": again,
            "N(0, I)": e,
            "the ODE's point": point.expand(shape),
        }
        for name, each in drawn.items():
            found.setdefault(name, []).append(wasserstein(each, exact))
    return {name: mean(values) for name, values in found.items()}


def markdown(found: dict[str, dict[str, list[Distances]]]) -> str:
    """A line for each dimension and time; mean and standard deviation over the seeds."""
    names = list(next(iter(found["1"].values()))[0])
    rows = [f"| dimension | t | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    for dimension, of in found.items():
        for t, seeds in of.items():
            columns = [[each[name] for each in seeds] for name in names]
            cells = [
                f"{mean(c):.3f}" + (f" ± {stdev(c):.3f}" if len(c) > 1 else "") for c in columns
            ]
            rows.append(f"| {dimension} | {t} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    output, *rest = sys.argv[1:]
    numbers = {name: int(value) for name, value in (each.split("=") for each in rest)}
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[Distances]]] = {}
    for dimension, teacher in MIXTURES.items():
        of = found[dimension] = {str(t): [] for t in TIMES}
        for seed in range(numbers.get("seeds", 3)):
            module = train(teacher, numbers.get("steps", 800), seed)
            for t in TIMES:
                of[str(t)].append(measure(module, t, seed))
    Path(output).write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


if __name__ == "__main__":
    main()
