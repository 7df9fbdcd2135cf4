import math

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from freeflow_lightning.callbacks import (
    AlphaSchedule,
    ConfidentRegionWarmup,
    FinalCorrection,
    HealthMonitor,
    LaterStarts,
    PeriodicFID,
    SampleGrid,
    SaveTeacher,
    StudentEMA,
    TangentWarmup,
    TrajectoryError,
)
from freeflow_lightning.flow import CentralDifference, SortedPair, Uniform
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from freeflow_lightning.objectives import Eulerian
from freeflow_lightning.recipes import FlowMapModule
from freeflow_lightning.recipes.correction import Correction
from freeflow_lightning.recipes.flow_matching import FlowMatchingModule
from tiny import data, fit, mixture, mlp, module


class Seen(Callback):
    """What each batch trained with: (optimizer step, t_c, alpha)."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.values.append((pl_module.t_c, pl_module.alpha))


def schedules():
    return [ConfidentRegionWarmup(4), AlphaSchedule(delay_steps=2, warmup_steps=2, decay_steps=3)]


EXPECTED = [  # t_c, alpha by hand: 1 - n/4; 0.3 clip((n - 2)/2, 0, 1) / sqrt(max(n/3, 1))
    (1.0, 0.0),
    (0.75, 0.0),
    (0.5, 0.0),
    (0.25, 0.15),
    (0.0, 0.3 / math.sqrt(4 / 3)),
    (0.0, 0.3 / math.sqrt(5 / 3)),
]


def close(seen, expected):
    return seen == [pytest.approx(pair) for pair in expected]


def test_schedules_are_functions_of_the_step():
    seen = Seen()
    fit(module(), *schedules(), seen, max_steps=6)
    assert close(seen.values, EXPECTED)


def test_schedules_count_optimizer_steps():
    seen = Seen()
    fit(module(), *schedules(), seen, max_steps=3, accumulate_grad_batches=2)
    assert close(seen.values, [pair for pair in EXPECTED[:3] for _ in range(2)])


def test_schedules_go_on_after_a_restart(tmp_path):
    saved = ModelCheckpoint(tmp_path, "last", every_n_train_steps=3, enable_version_counter=False)
    fit(module(), *schedules(), saved, max_steps=3, enable_checkpointing=True)
    seen = Seen()
    fit(module(), *schedules(), seen, max_steps=6, ckpt_path=tmp_path / "last.ckpt")
    assert close(seen.values, EXPECTED[3:])


def eulerian(**changes):
    settings = {"objective": Eulerian(CentralDifference(1e-2)), "times": SortedPair()} | changes
    return FlowMapModule(mixture(), mlp(), **settings)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_tangent_warms_up_by_the_optimizer_step(accumulate):
    shares = []

    class Share(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            shares.append(pl_module.tangent_share)

    fit(eulerian(), TangentWarmup(4), Share(), max_steps=6, accumulate_grad_batches=accumulate)
    expected = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares == [share for share in expected for _ in range(accumulate)]


def test_later_starts_begin_after_their_delay_and_rise(tmp_path):
    """Of four corrected rows; the states are the same after a restart, without a state of its own."""
    later, path = [], tmp_path / "last.ckpt"

    class Rows(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            drawn = pl_module.draw(8, batch.generator(0, pl_module.device)).correction
            later.append(int((drawn.t < 1).sum()))

    def train(until, *more, **settings):
        corrected = Correction(0.5, starts=Uniform(0.2, 0.8))
        m = FlowMapModule(mixture(), mlp(), correction=corrected)
        fit(m, LaterStarts(2, 4), Rows(), *more, max_steps=until, **settings)

    saved = ModelCheckpoint(tmp_path, "last", every_n_train_steps=4, enable_version_counter=False)
    train(4, saved, enable_checkpointing=True)
    train(8, ckpt_path=path)
    assert later == [0, 0, 0, 1, 2, 3, 4, 4]


def matching():
    return FlowMatchingModule(mlp(), (2,), num_classes=2)


@pytest.mark.parametrize(
    ("callback", "build", "message"),
    [
        (
            ConfidentRegionWarmup,
            lambda: module(correction_fraction=1.0),
            "ConfidentRegionWarmup has no effect here",
        ),
        (ConfidentRegionWarmup, matching, "ConfidentRegionWarmup has no effect here"),
        (
            AlphaSchedule,
            lambda: module(correction_fraction=0.0),
            "AlphaSchedule has no effect here",
        ),
        (
            AlphaSchedule,
            lambda: module(correction_fraction=1.0),
            "AlphaSchedule has no effect here",
        ),
        (AlphaSchedule, matching, "AlphaSchedule has no effect here"),
        (TangentWarmup, module, "TangentWarmup has no effect here"),
        (TangentWarmup, lambda: FlowMapModule(mixture(), mlp()), "TangentWarmup has no effect"),
        (lambda: LaterStarts(2), module, "LaterStarts has no effect here"),
        (
            lambda: LaterStarts(2),
            lambda: FlowMapModule(mixture(), mlp(), correction=Correction()),
            "LaterStarts has no effect here",
        ),
        (
            lambda: FinalCorrection(2),
            lambda: FlowMapModule(mixture(), mlp()),
            "FinalCorrection has no effect here",
        ),
        (
            lambda: FinalCorrection(2),
            lambda: module(correction_fraction=0.0),
            "FinalCorrection has no effect here",
        ),
        (TrajectoryError, matching, "TrajectoryError compares a student to its teacher"),
        (HealthMonitor, matching, "HealthMonitor watches a distillation"),
        (SaveTeacher, module, "SaveTeacher writes a SiTVelocity network"),
        (SaveTeacher, matching, "SaveTeacher writes a SiTVelocity network"),
    ],
)
def test_callbacks_without_effect_are_refused(callback, build, message):
    with pytest.raises(ValueError, match=message):
        fit(build(), callback(), prior=DataLoader([0]) if build is matching else data())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TangentWarmup(0), "steps to be an integer of at least 1, got 0"),
        (lambda: LaterStarts(-1), "delay_steps to be an integer of at least 0, got -1"),
        (lambda: LaterStarts(1, -1), "warmup_steps to be an integer of at least 0, got -1"),
        (lambda: ConfidentRegionWarmup(0), "steps to be an integer of at least 1, got 0"),
        (
            lambda: AlphaSchedule(delay_steps=-1),
            "delay_steps to be an integer of at least 0, got -1",
        ),
        (lambda: AlphaSchedule(decay_steps=0), "decay_steps to be a finite number above 0, got 0"),
        (lambda: StudentEMA([]), "one or more different numbers"),
        (lambda: StudentEMA([0.9, 0.9]), "one or more different numbers"),
        (
            lambda: StudentEMA([1.0]),
            "decay to be a finite number of at least 0 and below 1, got 1.0",
        ),
        (
            lambda: PeriodicFID(FrechetDistance(FlatFeatures(2)), reference_samples=1),
            "reference_samples to be an integer of at least 2",
        ),
        (lambda: SampleGrid(count=0), "count to be an integer of at least 1"),
        (lambda: TrajectoryError(points=3, steps=64), "steps to be a multiple of points"),
        (lambda: HealthMonitor(factor=1.0), "factor to be a finite number above 1"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
