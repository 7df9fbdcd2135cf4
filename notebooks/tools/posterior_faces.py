"""Draws of a student of PosteriorModule beside exact ones of its teacher, on the embedded faces without classes.

    python notebooks/tools/posterior_faces.py OUTPUT CHECKPOINT [states=3] [draws=192] [steps=16]

The first of the shipped faces are noised to t = 0.3, 0.6 and 0.9. Of each state p(x0 | x_t) is drawn twice by GLASS (16
Heun steps of the teacher) and by the student in 1 and in 4 steps; the classifier of faces says the attributes of every
draw. Two sets of draws of one state differ by the total variation of an attribute's frequencies, half the sum of their
absolute differences; the two sets of GLASS say what that is between equal laws. Beside the student: samples of the
teacher that do not look at the state, and the one point that the teacher's ODE goes to from the state. Writes
OUTPUT.json and OUTPUT.png (columns are states; rows x_t, 4 draws of GLASS, 4 of the student in 1 step and 4 in 4
steps), and prints a Markdown table.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from freeflow_lightning import FlowMap
from freeflow_lightning.examples.faces import load_faces
from freeflow_lightning.flow import indexed_noise, renoise, sample_posterior, solve
from freeflow_lightning.metrics import FacesFeatures, from_uint8, to_uint8
from freeflow_lightning.metrics.faces import ATTRIBUTES
from freeflow_lightning.sampling.sheets import sheet_of
from freeflow_lightning.students.posterior_draws import draw_posterior
from freeflow_lightning.teachers import Teacher

TIMES = (0.3, 0.6, 0.9)
TOLD = ("hair", "hair colour", "hat", "glasses", "skin", "clothing", "clothing colour", "mouth")
"""The attributes that are compared."""
SHOWN = 4

Draws = dict[str, Tensor]
"""Draws of one state by who drew them, [N, 3, 16, 16] each."""


def noised_faces(count: int, t: float) -> Tensor:
    """The first shipped faces at time t, [count, 3, 16, 16]; the same noise at each time."""
    index = torch.arange(count)
    n = indexed_noise(index, (3, 16, 16), seed=0, stream="noised faces")
    return renoise(from_uint8(load_faces().pictures[:count]), n, torch.full((count,), t))


def inner_noise(draws: int, name: str) -> Tensor:
    """Inner noise of a set of draws, [draws, 3, 16, 16]."""
    return indexed_noise(torch.arange(draws), (3, 16, 16), seed=0, stream=name)


def draw_exactly(teacher: Teacher, x: Tensor, t: float, e: Tensor, steps: int) -> Tensor:
    """Draws of p(x0 | x_t = x) by GLASS, [N, 3, 16, 16], from inner noise of that shape."""
    times = torch.full((len(e),), t)
    return sample_posterior(velocity_of(teacher), e, x.expand_as(e), times, steps=steps)


def velocity_of(teacher: Teacher):
    """The teacher's velocity u(x, t), without a class."""
    return lambda x, t: teacher.velocity(x, t, None)


def draw_all(student: FlowMap, x: Tensor, t: float, draws: int, steps: int) -> Draws:
    """Every set of draws of one state."""
    teacher, rows = student.teacher, x.expand(draws, *x.shape)
    e = inner_noise(draws, "student")
    one, four = (draw_posterior(student.network, e, rows, t, None, 1.0, k) for k in (1, 4))
    grid = torch.linspace(t, 0, steps + 1, dtype=torch.float64)
    return {
        "GLASS": draw_exactly(teacher, x, t, inner_noise(draws, "a"), steps),
        "GLASS again": draw_exactly(teacher, x, t, inner_noise(draws, "b"), steps),
        "student, 1 step": one,
        "student, 4 steps": four,
        "the one point of the teacher's ODE": solve(
            teacher.velocity, x[None], grid=grid, method="heun"
        ).expand(draws, *x.shape),
    }


def frequencies(judge: FacesFeatures, drawn: Tensor) -> dict[str, Tensor]:
    """How often each value of an attribute is seen, [values] each."""
    seen = judge.attributes(judge(to_uint8(drawn)))
    return {
        name: torch.bincount(seen[name], minlength=ATTRIBUTES[name]) / len(drawn) for name in TOLD
    }


def distances(judge: FacesFeatures, drawn: Draws) -> dict[str, dict[str, float]]:
    """Total variation of every attribute between each other set and that of GLASS."""
    of = {name: frequencies(judge, x) for name, x in drawn.items()}
    exact = of.pop("GLASS")
    return {
        name: {each: float((seen[each] - exact[each]).abs().sum() / 2) for each in TOLD}
        for name, seen in of.items()
    }


def mean_over(states: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over the states of each distance."""
    return {
        name: {each: sum(state[name][each] for state in states) / len(states) for each in TOLD}
        for name in states[0]
    }


def markdown(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line for each time and set of draws."""
    rows = [f"| t | draws | {' | '.join(TOLD)} | mean |", f"|---|---|{'---:|' * (len(TOLD) + 1)}"]
    for t, of in found.items():
        for name, seen in of.items():
            mean = sum(seen.values()) / len(seen)
            cells = " | ".join(f"{value:.2f}" for value in [*seen.values(), mean])
            rows.append(f"| {t} | {name} | {cells} |")
    return "\n".join(rows)


@torch.no_grad()
def main() -> None:
    output, checkpoint, *rest = sys.argv[1:]
    numbers = {name: int(value) for name, value in (each.split("=") for each in rest)}
    states, draws = numbers.get("states", 3), numbers.get("draws", 192)
    steps = numbers.get("steps", 16)
    torch.set_num_threads(1)
    student, judge = FlowMap.from_checkpoint(checkpoint), FacesFeatures()
    prior = solve(student.teacher.velocity, inner_noise(draws, "prior"), steps=steps)
    found, columns = {}, []
    for t in TIMES:
        measured = []
        for x in noised_faces(states, t):
            drawn = draw_all(student, x, t, draws, steps)
            measured.append(distances(judge, drawn | {"samples without the state": prior}))
            shown = [
                drawn[name][:SHOWN] for name in ("GLASS", "student, 1 step", "student, 4 steps")
            ]
            columns.append(torch.cat([x[None], *shown]))
        found[str(t)] = mean_over(measured)
    Path(f"{output}.json").write_text(json.dumps(found, indent=1) + "\n")
    sheet = torch.stack(columns, 1)
    sheet_of(to_uint8(sheet.flatten(0, 1)), columns=len(columns)).save(f"{output}.png")
    print(markdown(found))


if __name__ == "__main__":
    main()
