import csv
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.callbacks import (
    HealthMonitor,
    PeriodicFID,
    SampleGrid,
    StudentEMA,
    TrajectoryError,
    ValidationAtEnds,
)
from freeflow_lightning.callbacks.health import grows, measure_spread
from freeflow_lightning.flow import solve
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from freeflow_lightning.metrics.scores import relative_error
from freeflow_lightning.nets import SiT
from freeflow_lightning.sampling.picture_rows import picture_rows
from freeflow_lightning.teachers import SiTVelocity, Teacher, VelocityTeacher
from tiny import data, fit, mixture, module, same, trainer, weights


def fid(**changes):
    return PeriodicFID(
        FrechetDistance(FlatFeatures(2)), **({"reference_samples": 40, "steps": 4} | changes)
    )


def validate(m, *callbacks, **sizes):
    return trainer(callbacks=list(callbacks)).validate(
        m, data(**({"val_samples": 21} | sizes)), verbose=False
    )[0]


# PeriodicFID


def test_the_fid_and_its_floor_are_those_of_the_samples():
    m = module()
    logged = validate(m, fid(seed=5), seed=3)
    metric = FrechetDistance(FlatFeatures(2))
    gamma = torch.full((1,), 1.5)

    def teacher_samples(n, stream):
        z, y = m.teacher.draw_indexed(torch.arange(n), seed=5, stream=stream)
        return solve(
            lambda x, t, c: m.teacher.guided_velocity(c, gamma=gamma.expand(len(x)))(x, t),
            z,
            y,
            steps=4,
        )

    metric.update(teacher_samples(40, "reference"), real=True)
    metric.update(teacher_samples(21, "floor"), real=False)
    assert logged["fid/floor"] == pytest.approx(float(metric.compute()), rel=1e-5)
    metric.reset()
    z, y = m.teacher.draw_indexed(torch.arange(21), seed=3, stream="validation")
    metric.update(m.generate(z, y), real=False)
    assert logged["fid/student"] == pytest.approx(float(metric.compute()), rel=1e-5)
    assert logged["fid/student"] > 2 * logged["fid/floor"]


@pytest.mark.parametrize("val_batch_size", [1, 4, 21, 100])
def test_results_do_not_depend_on_the_validation_batch(val_batch_size):
    expected = validate(
        module(),
        fid(),
        TrajectoryError(8, 4, 8),
        HealthMonitor(count=10, steps=4),
        val_batch_size=8,
    )
    callbacks = [fid(cache="elsewhere"), TrajectoryError(8, 4, 8), HealthMonitor(count=10, steps=4)]
    logged = validate(module(), *callbacks, val_batch_size=val_batch_size)
    assert logged.keys() == expected.keys()
    assert logged == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_the_second_run_draws_no_reference(tmp_path):
    def calls(m, **changes):
        count = []
        m.teacher.register_forward_hook(lambda *_: count.append(1))
        logged = validate(m, fid(cache=str(tmp_path / "kept"), **changes))
        return len(count), logged

    first, logged = calls(module())
    second, again = calls(module())
    assert first - second == 2 * 4 * 2  # 4 Heun steps for either stream
    assert again == logged
    for changes in ({"seed": 9}, {"steps": 5}, {"method": "euler"}, {"reference_samples": 41}):
        assert calls(module(), **changes)[0] > second
    assert calls(module(evaluation_guidance=1.0))[0] > second
    assert calls(module(teacher=VelocityTeacher(lambda x, t, y: -x, (2,), 2)))[0] > second
    assert (
        len(list((tmp_path / "kept").glob("*.safetensors"))) == 13
    )  # the floor knows no reference_samples


def test_each_validation_measures_anew():
    m, metric = module(), fid()
    made = trainer(callbacks=[metric])
    first = made.validate(m, data(val_samples=21), verbose=False)
    assert made.validate(m, data(val_samples=21), verbose=False) == first
    made.fit(
        m, data(val_samples=21)
    )  # what was added up in inference mode can be added to in training
    assert float(made.callback_metrics["fid/floor"]) == pytest.approx(
        first[0]["fid/floor"], rel=1e-6
    )
    assert float(made.callback_metrics["fid/student"]) != first[0]["fid/student"]


def test_features_have_the_names_of_evaluate():
    named = PeriodicFID(features="flat", reference_samples=40, steps=4)
    assert validate(module(), named) == validate(module(), fid())
    with pytest.raises(ValueError, match="leave one of them out"):
        PeriodicFID(FrechetDistance(FlatFeatures(2)), features="flat")
    with pytest.raises(ValueError, match="leave one of them out"):
        PeriodicFID(FrechetDistance(FlatFeatures(2)), weights="inception.pth")


def test_fewer_samples_than_features_are_warned_of(caplog):
    wide = FlatFeatures(2)
    wide.forward = lambda samples: torch.randn(len(samples), 22)
    wide.num_features, wide.version = 22, "22"
    validate(module(), PeriodicFID(FrechetDistance(wide), reference_samples=40, steps=4))
    assert "FID of 21 samples in 22 features: " in caplog.text
    caplog.clear()
    validate(module(), fid())
    assert "samples in" not in caplog.text


# The evaluation only looks


def test_evaluation_does_not_disturb_training():
    plain, watched = module(), module()
    prior = {"prior": data(length=2, val_samples=6)}
    torch.manual_seed(0)
    fit(plain, max_steps=4, prior=data(length=2))
    torch.manual_seed(1)
    callbacks = [
        fid(),
        TrajectoryError(4, 2, 4),
        SampleGrid(4, steps=2),
        HealthMonitor(count=4, steps=2),
        StudentEMA([0.9]),
    ]
    fit(watched, *callbacks, max_steps=4, **prior)
    assert same(weights(plain.student), weights(watched.student))
    assert same(weights(plain.auxiliary), weights(watched.auxiliary))


# SampleGrid


def pictures():
    class Pictures(Teacher):
        sample_shape = (1, 4, 4)
        num_classes = 3

        def velocity(self, x, t, condition):
            return -x

    net = SiTVelocity(SiT(4, 2, 1, 16, 1, 2, num_classes=3))
    return FreeFlowModule(Pictures(), net, student_lr=1e-2)


@pytest.mark.parametrize("build", [module, pictures])
def test_a_picture_at_the_start_and_at_each_validation(tmp_path, monkeypatch, build):
    logger = TensorBoardLogger(tmp_path, "board", version=0)
    shown = []
    logger.experiment.add_image = lambda name, picture, step, dataformats: shown.append(
        (name, step, picture.shape[2])
    )
    captions = []
    monkeypatch.setattr(
        "freeflow_lightning.callbacks.samples.picture_rows",
        lambda *args: captions.append(args[2]) or picture_rows(*args),
    )
    fit(
        build(),
        SampleGrid(5, steps=2),
        max_steps=4,
        prior=data(length=2, val_samples=2),
        logger=logger,
    )
    files = sorted((tmp_path / "board/version_0/samples").iterdir())
    assert [path.name for path in files] == [
        "step_0000000.png",
        "step_0000002.png",
        "step_0000004.png",
    ]
    drawn = [np.asarray(Image.open(path)) for path in files]
    assert all(picture.std() > 1 for picture in drawn)
    assert not np.array_equal(drawn[0], drawn[2])
    classes = ["class 0", "class 1", "class 2", "class 0", "class 1"]
    assert captions == ([] if build is module else [classes] * 3)
    assert [(name, step) for name, step, _ in shown] == [
        ("samples", 0),
        ("samples", 2),
        ("samples", 4),
    ]


# TrajectoryError


def test_the_relative_error_by_hand():
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    states = reference + torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert relative_error(states, reference).tolist() == pytest.approx([1 / 5, 1 / 2])
    origin = torch.tensor([[3.0, 0.0], [0.0, -2.0]])
    assert relative_error(states, reference, origin).tolist() == pytest.approx([1 / 4, 1 / 4])


class Decay(Teacher):
    """u = -x, whose flow map is f(z, delta) = exp(-delta) z."""

    sample_shape = (3,)

    def velocity(self, x, t, condition):
        return -x


class ExactMap(torch.nn.Module):
    """F(z, delta) = (exp(-delta) - 1) / delta z, scaled: the average velocity of Decay at scale 1."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.t_embedder = scale, torch.nn.Linear(1, 1)

    def forward(self, x, t, condition=None, *, delta, gamma):
        return self.scale * x * (torch.expm1(-delta) / delta)[:, None]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_error_of_the_exact_map_is_zero_and_of_another_one_as_computed(scale):
    m = FreeFlowModule(Decay(), ExactMap(1.0), guidance_range=(1.0, 1.0), evaluation_guidance=1.0)
    m.student = ExactMap(scale)
    errors = TrajectoryError(count=6, points=4, steps=64)
    logged = validate(m, errors)
    assert errors._path.untyped_storage().nbytes() == errors._path.nbytes  # of 4 states, not of 65
    for delta in (
        0.25,
        0.5,
        0.75,
        1.0,
    ):  # |f - x| / |x| = |scale - 1| (1 - exp(-delta)) / exp(-delta)
        expected = (scale - 1) * np.expm1(delta)
        assert logged[f"error/at_delta_{delta:.3f}"] == pytest.approx(expected, abs=1e-4)
    assert logged["error/endpoint"] == logged["error/at_delta_1.000"]


# HealthMonitor


def test_growth_is_measured_against_the_best_window():
    assert not grows([5.0, 1.0, 1.0, 2.9, 2.9], factor=3.0, window=2)
    assert grows([5.0, 1.0, 1.0, 3.1, 3.1], factor=3.0, window=2)
    assert not grows([1.0, 1.0, 9.0], factor=3.0, window=2)  # one window is not over yet
    assert not grows([9.0, 9.0, 1.0, 1.0], factor=3.0, window=2)


def test_the_spread_by_hand():
    assert measure_spread(torch.tensor([[0.0, 0.0], [2.0, 4.0]])) == pytest.approx(
        ((2 + 8) / 2) ** 0.5
    )


def test_it_warns_once_for_each_cause(caplog):
    monitor = HealthMonitor(factor=2.0, window=2)
    with caplog.at_level(logging.WARNING):
        for step, value in enumerate([1.0] * 4 + [5.0] * 6, start=1):
            figures = {
                "prediction/residual": torch.tensor(value),
                "gradient/student": torch.tensor(value),
            }
            run = SimpleNamespace(
                global_step=step,
                log_every_n_steps=1,
                callback_metrics=figures,
                is_global_zero=True,
            )
            monitor.on_train_batch_end(run, FreeFlowModule, None, None, 0)
    warned = [record.message for record in caplog.records if record.name.endswith("health")]
    assert len(warned) == 2
    assert warned[0].startswith("step 5: ")
    assert FreeFlowModule.advice["prediction/residual"] in warned[0]
    assert FreeFlowModule.advice["gradient/student"] in warned[1]


def test_it_watches_each_logged_step_once():
    for accumulate in (1, 2):
        monitor = HealthMonitor()
        fit(
            module(),
            monitor,
            max_steps=6,
            accumulate_grad_batches=accumulate,
            log_every_n_steps=2,
            prior=data(length=12),
        )
        assert len(monitor._history["prediction/residual"]) == 3


class Collapsed(torch.nn.Module):
    """Every noise to (nearly) the same sample."""

    def __init__(self, keep):
        super().__init__()
        self.keep, self.t_embedder = keep, torch.nn.Linear(1, 1)

    def forward(self, x, t, condition=None, *, delta, gamma):
        return (self.keep - 1) * x


@pytest.mark.parametrize("keep", [0.1, 1.0])
def test_a_collapsed_student_is_seen(keep, caplog):
    still = VelocityTeacher(lambda x, t, c: 0 * x, (2,))
    m = FreeFlowModule(still, Collapsed(1.0), guidance_range=(1.0, 1.0), evaluation_guidance=1.0)
    m.student = Collapsed(keep)
    monitor = HealthMonitor(count=16, steps=2)
    with caplog.at_level(logging.WARNING):
        logged = validate(m, monitor)
        again = validate(m, monitor)
    assert logged["health/spread"] == pytest.approx(keep, rel=1e-4)
    assert again == logged
    warned = [record.message for record in caplog.records if record.name.endswith("health")]
    assert len(warned) == (keep < 0.8)
    assert all("spread less than the teacher's" in message for message in warned)


def test_a_student_that_has_not_trained_yet_is_not_advised(caplog):
    """ValidationAtEnds measures it at step 0, where it is as narrow as the teacher's velocity."""
    monitor = HealthMonitor(count=16, steps=2, least_spread=10.0)
    prior = data(length=1, val_samples=16)
    with caplog.at_level(logging.WARNING):
        fit(module(), ValidationAtEnds(), monitor, max_steps=1, prior=prior, limit_val_batches=1.0)
    [warned] = [record.message for record in caplog.records if record.name.endswith("health")]
    assert warned.startswith("step 1: the student's samples spread less")


def test_a_finished_mixture_spreads_enough():
    m = module()
    m.generate = lambda z, y: solve(m.teacher, z, y, steps=16)
    m.evaluation_guidance = 1
    assert validate(m, HealthMonitor(count=21))["health/spread"] == pytest.approx(1.0, abs=1e-5)
    assert mixture().num_classes == 2


# ValidationAtEnds


def test_curves_have_points_at_step_0_and_at_the_last_step(tmp_path):
    """A run of 6 steps in epochs of 4, its continuation by 2, and a run that ends with its epoch."""
    steps_of = {}
    for steps, resumed in ((6, None), (4, None), (8, "6.ckpt")):
        logger = CSVLogger(tmp_path, str(steps))
        made = fit(
            module(),
            ValidationAtEnds(),
            TrajectoryError(8, 4, 8),
            max_steps=steps,
            logger=logger,
            prior=data(val_samples=8),
            ckpt_path=resumed and tmp_path / resumed,
        )
        made.save_checkpoint(tmp_path / f"{steps}.ckpt")
        logger.save()
        with open(f"{logger.log_dir}/metrics.csv") as file:
            rows = list(csv.DictReader(file))
        steps_of[steps] = [int(row["step"]) for row in rows if row["error/endpoint"]]
    assert steps_of == {6: [0, 3, 5], 4: [0, 3], 8: [7]}
