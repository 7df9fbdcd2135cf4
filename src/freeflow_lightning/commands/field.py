"""What several contenders share: the budget, the yardstick, the seeds, the folder of their runs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from freeflow_lightning.commands.contender import Contender
from freeflow_lightning.commands.contender_run import CHECKPOINT, Place, run_contender
from freeflow_lightning.evaluation.methods import Figures, Method, Run, pick_rate
from freeflow_lightning.evaluation.yardstick import Yardstick
from freeflow_lightning.profiling.budget import Budget
from freeflow_lightning.profiling.hardware import machine
from freeflow_lightning.students.flow_map import FlowMap


class Field(NamedTuple):
    """What all contenders of a comparison have in common.

    Args:
        budget: of each run.
        yardstick: of all students.
        device: where they train.
        root: the folder, whose `runs` holds theirs.
        seeds: of training, one run each.
        rates: multiples of each config's student_lr, which the first seed tries.
        measure: the figures of a student.
        tell: told each run that has ended.
        reading: what `measure` reads beyond the yardstick's own figures, as JSON.
        keeps: whether an ended run keeps its checkpoint.
        advance: told how many measurements of a run are done; a run has `budget.points`.
    """

    budget: Budget
    yardstick: Yardstick
    device: torch.device
    root: Path
    seeds: Sequence[int]
    rates: Sequence[float]
    measure: Callable[[FlowMap], Figures]
    tell: Callable[[Run], None]
    reading: Mapping[str, Any] = {}
    keeps: bool = True
    advance: Callable[[int], None] = lambda points: None

    def count_points(self, contenders: int) -> int:
        """Return the measurements of all runs of so many contenders."""
        return contenders * (len(self.rates) + len(self.seeds) - 1) * self.budget.points

    def run(self, contender: Contender, seed: int, rate: float) -> Run:
        """Return one run: read if it has ended before, trained otherwise."""
        facts = {
            "contender": contender.facts(),
            "budget": self.budget._asdict(),
            "yardstick": self.yardstick.facts(),
            **self.reading,
        }
        left = self.budget.points

        def measure(student: FlowMap) -> Figures:
            nonlocal left
            figures = self.measure(student)
            left -= 1
            self.advance(1)
            return figures

        run = Run(contender.name, seed, rate)
        place = Place.of(self.root, run, facts)
        ended = place.read(run)
        if ended is None:
            ended = run_contender(contender, run, place, self.budget, measure, self.device)
        if not self.keeps:
            (place.folder / CHECKPOINT).unlink(missing_ok=True)
        self.advance(left)
        self.tell(ended)
        return ended

    def method(self, contender: Contender) -> Method:
        """Return all runs of one contender: the rates on the first seed, then the other seeds."""
        first = self.seeds[0]
        tried = [self.run(contender, first, rate) for rate in self.rates]
        rate = pick_rate(tried) if len(tried) > 1 else self.rates[0]
        best = next(run for run in tried if run.rate == rate)
        others = [self.run(contender, seed, rate) for seed in self.seeds[1:]]
        return Method(contender.name, [best, *others], tried)

    def facts(self) -> dict[str, Any]:
        """Return how the comparison is made, as JSON."""
        return {
            "command": " ".join(["freeflow", *sys.argv[1:]]),
            "budget": self.budget._asdict(),
            "seeds": self.seeds,
            "rates": self.rates,
            **self.yardstick.facts(),
            **self.reading,
            "machine": machine(self.device),
        }
