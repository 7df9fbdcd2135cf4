"""freeflow bench, as a user runs it. What is asserted are counts, sums and words: no test asserts a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freeflow_lightning import DMDModule, FreeFlowModule
from freeflow_lightning.callbacks import ConfidentRegionWarmup, FinalCorrection, StudentEMA
from freeflow_lightning.flow import training_generator
from freeflow_lightning.nets import SIZES
from freeflow_lightning.profiling.bench import make_steady
from freeflow_lightning.profiling.bench_subject import BenchSubject
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.hardware import PEAKS, machine, peak_flops
from freeflow_lightning.profiling.network_calls import count_rows, record_calls
from freeflow_lightning.profiling.rounds import mean_rows
from freeflow_lightning.profiling.sampling_time import (
    measure_student_sampling,
    measure_teacher_sampling,
)
from freeflow_lightning.profiling.step_memory import estimate
from freeflow_lightning.profiling.step_parts import ADAM, CHECKS, EMA, LOGGING, PARTS
from freeflow_lightning.profiling.step_time import SideBySide, networks_of
from freeflow_lightning.teachers import SiTVelocity, VelocityTeacher
from nets.random_weights import tiny_sit
from places import ROOT
from recipes import test_dmd
from recipes.every_recipe import RECIPES
from tiny import data, fit, learned_teacher, module, same, weights


@pytest.fixture(scope="module")
def measured():
    """A module of small networks after three rounds."""
    m = module(learned_teacher(), check_teacher=False)
    before = weights(m)
    side = SideBySide(Clock(torch.device("cpu")), rounds=3)
    fit(
        m,
        StudentEMA(),
        side,
        max_steps=side.steps,
        prior=data(batch_size=16, length=side.steps),
        log_every_n_steps=7,
    )
    return m, before, side


@pytest.mark.slow
def test_the_profiler_is_quiet(tmp_path):
    """In a process of its own: kineto asks once how much it is to tell."""
    words = ["bench", "--config", "digits", "--steps", "2", "--data.batch_size", "4"]
    command = [sys.executable, "-m", "freeflow_lightning", *words, "--data.val_samples", "0"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "where a profiled, logged step goes" in ended.stdout
    assert "SyncActivityProfilerHandler" not in ended.stderr


def test_every_round_counts_the_evaluations_of_its_own_step(measured):
    m, _, side = measured
    assert len(side.rounds) == 3
    for place, seen in enumerate(side.rounds):
        with record_calls(networks_of(m)) as made:
            m.loss(m.draw(16, training_generator(0, 0, side.warmup + place)))
        assert seen.rows == count_rows(made)
    rows = mean_rows(side.rounds)
    assert rows["teacher"]["forward"] == sum(r.rows["teacher"]["forward"] for r in side.rounds) / 3
    assert rows["student"]["backward"] == 16


def test_averages_are_updated_in_the_trainers_step_and_counted_as_their_own_part(monkeypatch):
    """By a clock that goes on by 1 when averages are updated, and stands still otherwise."""
    clock, time = Clock(torch.device("cpu")), [0.0]
    clock.now = lambda: time[0]
    lerp = torch._foreach_lerp_

    def timed_lerp(*arguments):
        time[0] += 1
        return lerp(*arguments)

    monkeypatch.setattr(torch, "_foreach_lerp_", timed_lerp)
    m = module(learned_teacher(), check_teacher=False)
    side = SideBySide(clock, rounds=2)
    fit(m, StudentEMA(), side, max_steps=side.steps, prior=data(batch_size=4, length=side.steps))
    assert [seen[:4] for seen in side.rounds] == [(1.0, 0.0, 0.0, 0.0)] * 2
    assert (side.parts[EMA], side.parts[ADAM]) == (1.0, 0.0)


def test_all_runs_find_the_same_weights(measured):
    m, before, side = measured
    now = weights(m)
    assert same({name: now[name] for name in before}, before)
    assert all(t > 0 for seen in side.rounds for t in seen[:4])
    assert side.rounds[0].floor == side.rounds[0].evaluations + side.rounds[0].optimizer


def test_the_breakdown_holds_the_whole_step(measured):
    m, _, side = measured
    seconds = side.breakdown.seconds
    assert tuple(seconds) == PARTS
    assert all(
        seconds[part] > 0
        for part in ("student", "auxiliary", "teacher", "noise", "loss terms", ADAM, EMA, LOGGING)
    )
    assert side.breakdown.rest > 0
    assert side.log_every == 7
    assert all(0 < side.parts[part] < 10 for part in (EMA, CHECKS, LOGGING))
    standing = sum(p.nbytes for p in m.parameters())
    assert side.breakdown.peak > 3 * standing  # weights, gradients, two moments
    assert side.flops > 0


@pytest.mark.parametrize("turn", [1, 2])
def test_the_operations_are_those_of_forward_and_backward_passes(turn):
    """Of the average step, where the student rests in every other one."""

    def made():
        net = tiny_sit()
        teacher = VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes)
        if turn == 1:
            return FreeFlowModule(teacher, skip_idle_rows=False, check_teacher=False)
        return DMDModule(teacher, auxiliary_updates=turn, skip_idle_rows=False, check_teacher=False)

    side = SideBySide(Clock(torch.device("cpu")), rounds=1, warmup=1, turn=turn)
    fit(made(), side, max_steps=side.steps, prior=data(batch_size=8, length=side.steps))
    assert side.flops == pytest.approx(8 * estimate(made, batch_size=8).flops, rel=1e-6)


def test_a_recipe_whose_student_rests_in_some_steps_is_measured_by_turns():
    m = test_dmd.build(learned_teacher(), auxiliary_updates=2, check_teacher=False)
    side = SideBySide(Clock(torch.device("cpu")), rounds=3, warmup=1, turn=2)
    fit(m, side, max_steps=side.steps, prior=data(batch_size=8, length=side.steps))
    alone, moved = side.rounds[:2]
    assert ["teacher" in measured.rows for measured in side.rounds] == [False, True] * 2
    assert len(side.turns) == 2
    assert side.turns[0].step == (alone.step + moved.step) / 2
    assert side.turns[0].floor == pytest.approx((alone.floor + moved.floor) / 2)
    assert side.turns[0].rows["teacher"]["forward"] == moved.rows["teacher"]["forward"] / 2
    assert (side.steps - 1) % 2 == 0  # the profiled step, the last but one, moves the student
    assert side.flops > 0


def subject(name, *callbacks):
    """A recipe as a bench has it of its config."""
    module = RECIPES[name]()
    return BenchSubject(name, module.teacher, lambda teacher: module, 4, "32", list(callbacks))


def test_a_steady_step_is_one_of_the_end_of_a_run():
    schedules = ConfidentRegionWarmup(5), FinalCorrection(10, lead=3.0, auxiliary_updates=4)
    m = make_steady(subject("any-step", *schedules))
    assert (m.t_c, m.lead, len(m.steady_steps)) == (0.0, 3.0, 4)
    m = make_steady(subject("transition"))
    m.begin_step(0)
    assert not m.matches  # its first stage is over


def test_sampling_is_compared_with_its_own_evaluations():
    m = module(learned_teacher())
    options = {"rounds": 1, "context": torch.no_grad}
    student = measure_student_sampling(m, 5, Clock(torch.device("cpu")), **options)
    assert (student.samples, student.evaluations) == (8, 8)  # filled up to a multiple of 8
    teacher = measure_teacher_sampling(m, 8, Clock(torch.device("cpu")), steps=3, **options)
    assert (teacher.samples, teacher.evaluations) == (8, 8 * 3 * 2 * 2)  # Heun, both branches


def test_the_clock_of_one_thread_is_its_own_work():
    clock = Clock(torch.device("cpu"))
    assert clock.name == "CPU time"
    import time

    assert clock(lambda: time.sleep(0.2)) < 0.1


@pytest.mark.slow
def test_a_config_from_the_command_line(freeflow, monkeypatch, told_parts):
    told = told_parts("commands.bench")
    monkeypatch.setenv("COLUMNS", "120")
    config = ROOT / "configs" / "digits.yaml"
    arguments = (
        "--config",
        config,
        "--data.batch_size",
        8,
        "--data.val_samples",
        16,
        "--data.val_batch_size",
        8,
        "--model.lr_decay_steps",  # of a run, which the bench is not
        5,
    )
    code, out, err = freeflow("bench", *arguments, "--steps", 2, "--output", "bench.json")
    assert code == 0, err
    assert told == [4, "estimates", "training", "sampling", "FID"]
    for words in (
        "floor: both",
        "step: in a Trainer",
        "samples / s",
        "Peak memory: measured",
        "days of this device",
    ):
        assert words in out
    found = json.loads(Path("bench.json").read_text())
    assert found["machine"]["type"] == "cpu"
    assert found["machine"]["torch"] == torch.__version__
    assert found["command"].endswith("--output bench.json")
    assert found["subject"] | {"name": ""} == {
        "name": "",
        "batch_size": 8,
        "precision": "32",
        "averages": 1,
    }
    assert found["timed"]["rounds"] == 2
    step = found["step"]
    assert step["mfu"] is None
    assert step["floor_seconds"] == pytest.approx(
        step["evaluations_seconds"] + step["optimizer_seconds"], rel=0.5
    )
    assert step["samples_per_second"] == pytest.approx(8 / step["seconds"])
    assert found["evaluations_per_sample"]["student"]["backward"] == 1
    assert found["evaluations_per_sample"]["teacher"] == {"forward": 5 / 8 + 3 / 8}  # unguided
    assert found["memory"]["measured"] == pytest.approx(found["memory"]["estimated"], rel=0.1)
    overhead = found["overhead_seconds_per_step"]
    assert all(overhead[name] > 0 for name in ("checks", "ema", "logging", "fid"))
    beside = sum(overhead[name] for name in ("method", "lightning", "checks", "ema"))
    assert beside == pytest.approx(step["seconds"] - step["floor_seconds"])
    whole = found["whole_run"]
    assert (whole["steps"], whole["batch"]) == (7000, 8)
    assert whole["device_days"] == pytest.approx(7000 * 8 / step["samples_per_second"] / 86400)
    assert not Path("runs").exists()  # nothing is left behind


@pytest.mark.slow
def test_a_size_and_a_half_precision(freeflow, monkeypatch):
    """With two blocks of S/2, whose parameters test_step_memory.py counts."""
    monkeypatch.setitem(SIZES, "S", SIZES["S"] | {"depth": 2})
    arguments = (
        "--size",
        "S/2",
        "--image_size",
        16,
        "--batch_size",
        4,
        "--steps",
        1,
        "--precision",
        "bf16-mixed",
    )
    code, out, err = freeflow("bench", *arguments)
    assert code == 0, err
    assert "SiT-S/2 with random weights, 16 x 16, batch 4, precision bf16-mixed" in out
    assert "1,000,000 x 256" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config FILE or --size XL/2"),
        (("--config", "a.yaml", "--size", "S/2"), "expected one thing to measure"),
        (("--size", "S/2", "--model.alpha_ref", "1"), "--model.alpha_ref changes a config"),
        (("--config", "missing.yaml"), "no config at missing.yaml"),
        (("--size", "S/2", "--steps", "0"), "at least one step"),
        (("--config", ROOT / "configs" / "digits_teacher.yaml"), "distils no teacher"),
        (("--size", "M/2"), "size"),
        (("--stepz", "3"), "did you mean '--steps'"),
    ],
)
def test_errors_in_two_lines(freeflow, arguments, message):
    code, _, err = freeflow("bench", *arguments)
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in err


def test_help_names_the_floor(freeflow):
    code, out, _ = freeflow("bench", "--help")
    assert code == 0
    for words in (
        "the floor",
        "--size",
        "--compile",
        "rounds to take the median of",
        "freeflow bench --config",
    ):
        assert words in out


def test_peaks_of_devices():
    assert peak_flops("NVIDIA H100 80GB HBM3", "32") == 67e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16-true") == 312e12
    assert peak_flops("NVIDIA GeForce RTX 4090", "bf16-mixed") == PEAKS["RTX 4090"][0]
    assert peak_flops("AMD EPYC", "bf16-mixed") is None
    assert machine(torch.device("cpu"))["threads"] == 1


@pytest.mark.slow
def test_compiled_networks_are_measured_with_every_row(freeflow, monkeypatch):
    graphs, compile_ = [], torch.nn.Module.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda net, **options: compile_(net, **(options | {"backend": backend})),
    )
    arguments = ("--config", ROOT / "configs" / "digits.yaml", "--batch_size", 8, "--steps", 1)
    code, _, err = freeflow("bench", *arguments, "--compile", "--output", "bench.json")
    assert code == 0, err
    found = json.loads(Path("bench.json").read_text())
    assert found["compiled"]
    rows = found["evaluations_per_sample"]
    assert rows["student"] == {"backward": 1, "forward": 5 / 8}  # every row
    assert graphs
