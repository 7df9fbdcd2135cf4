"""Moments that ship with the package: found for exactly what they are of, and for nothing else."""

import pytest
import torch

from freeflow_lightning.evaluation import reference, shipped_tables
from freeflow_lightning.evaluation.reference import teacher_table
from freeflow_lightning.metrics import FacesFeatures, FlatFeatures
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import SiTTeacher
from tiny import mixture

DRAW = {"count": 12, "seed": 1, "stream": "reference"}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The sampler whose moments ship, and those moments, which nothing else could be."""
    monkeypatch.setattr(shipped_tables, "FOLDER", tmp_path / "shipped")
    sampler, network = TeacherSampler(mixture(), steps=2), FlatFeatures(2)
    table = teacher_table(sampler, network, folder=tmp_path / "first", **DRAW)
    table.moments["features"].mean.fill_(7.0)
    place = {"seed": DRAW["seed"], "stream": DRAW["stream"]}
    shipped_tables.write_shipped(tmp_path / "shipped", table, sampler, network, **place)
    return sampler


def is_found(sampler, folder, needs_rows=False, **changes):
    network, draw = FlatFeatures(2), DRAW | changes
    table = teacher_table(sampler, network, folder=folder, needs_rows=needs_rows, **draw)
    return table.moments["features"].mean.tolist() == [7.0, 7.0]


def test_they_take_the_place_of_drawing(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "draw_table", None)
    assert is_found(shipped, tmp_path / "new")


def test_other_samples_are_drawn(shipped, tmp_path):
    folder, teacher = tmp_path / "new", shipped.teacher
    assert not is_found(shipped, folder, needs_rows=True)
    for changes in ({"count": 13}, {"seed": 2}, {"stream": "floor"}):
        assert not is_found(shipped, folder, **changes)
    for settings in ({"steps": 3}, {"steps": 2, "method": "euler"}, {"steps": 2, "guidance": 2.0}):
        assert not is_found(TeacherSampler(teacher, **settings), folder)


def test_a_teacher_that_does_something_else_with_the_same_weights_is_told_apart(shipped, tmp_path):
    exact = type(shipped.teacher).velocity
    shipped.teacher.velocity = lambda x, t, c: 1.1 * exact(shipped.teacher, x, t, c)
    assert not is_found(shipped, tmp_path / "new")


def test_the_demo_finds_its_reference_and_its_floor():
    """What configs/faces.yaml compares with: two draws of one law, and so close to each other."""
    sampler = TeacherSampler(SiTTeacher("embedded:faces"), "midpoint", 16)
    network = FacesFeatures()
    tables = [
        shipped_tables.find_shipped(sampler, network, count=10_000, seed=1, stream=stream)
        for stream in ("reference", "floor")
    ]
    first, second = (table.moments["features"].mean for table in tables)
    assert not torch.equal(first, second)
    assert (first - second).norm() < 0.05 * first.norm()
