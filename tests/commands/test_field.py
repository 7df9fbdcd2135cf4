"""Runs within one budget: the bar ends where it says."""

from pathlib import Path
from types import SimpleNamespace

import torch

from freeflow_lightning.commands import field as room
from freeflow_lightning.commands.field import Field
from freeflow_lightning.profiling.budget import Budget


def test_every_run_ends_at_its_own_share_of_the_bar(tmp_path, monkeypatch):
    """One run is measured to its end, one diverges after two measurements, one has ended before."""
    measured = iter([4, 2])

    def train(contender, run, place, budget, measure, device):
        for _ in range(next(measured)):
            measure(None)
        return run

    places = iter([None, None, "ended"])
    place = SimpleNamespace(read=lambda run: next(places) and run, folder=Path())
    monkeypatch.setattr(room, "run_contender", train)
    monkeypatch.setattr(room.Place, "of", lambda root, run, facts: place)
    done = []
    contender = SimpleNamespace(name="a", facts=dict)
    yardstick = SimpleNamespace(facts=dict)
    everyone = Field(
        Budget("steps", 8, 4),
        yardstick,
        torch.device("cpu"),
        tmp_path,
        [0, 1, 2],
        [1.0],
        lambda student: {},
        lambda run: done.append(f"run {run.seed}"),
        advance=done.append,
    )
    everyone.method(contender)
    assert done == [1, 1, 1, 1, 0, "run 0", 1, 1, 2, "run 1", 4, "run 2"]
    assert sum(n for n in done if isinstance(n, int)) == everyone.count_points(1) == 12
