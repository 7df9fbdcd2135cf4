"""freeflow sample, evaluate and diagnose as one runs them: by several processes, after a kill, with wrong input."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import forks
from freeflow_lightning import FlowMap
from freeflow_lightning.commands.words import spell_out
from freeflow_lightning.evaluation.given_reference import read_reference
from freeflow_lightning.evaluation.pick_features import pick_features
from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.examples.faces.data import load_moments
from freeflow_lightning.metrics import (
    FacesFeatures,
    FeatureNetwork,
    FlatFeatures,
    FrechetDistance,
    to_uint8,
)
from freeflow_lightning.sampling.draw import Draw, pictures
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import SiTTeacher
from freeflow_lightning.training.cache_folder import cache_folder

QUICK = [
    "--num_samples",
    40,
    "--reference_samples",
    50,
    "--reference_steps",
    2,
    "--paired_samples",
    16,
]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Sampling


def test_lists_and_switches_are_written_as_one_says_them(freeflow, checkpoint, tmp_path):
    options = [
        "sample",
        "--checkpoint",
        checkpoint,
        "--num_samples",
        3,
        "--output",
        "a",
        "--npz",
        "--classes",
        1,
        3,
    ]
    options += ["--teacher", "--steps", 1]  # the student's guidance has no effect yet
    assert freeflow(*options, "--guidance", 1.0, 2.0)[:2] == (
        0,
        "3 samples at each of 2 guidance scales in a\n",
    )
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "guidance_1",
        "guidance_2",
        "sweep.json",
        "sweep.png",
    ]
    assert np.load("a/guidance_1/samples.npz")["arr_1"].tolist() == [1, 3, 1]
    one, two = (np.load(f"a/guidance_{g}/samples.npz")["arr_0"] for g in (1, 2))
    assert not np.array_equal(one, two)


def test_words_that_are_no_lists_stay_as_they_are():
    class Action:
        def __init__(self, hint):
            self._typehint = hint

    options = {
        "--l": Action(list[int]),
        "--b": Action(bool),
        "--n": Action(int),
        "--m": Action(list[int] | None),
    }
    options["--s"] = Action(str | None)
    options["--o"] = Action(list[int] | str | int)
    cases = {
        "--n 3 --l 1 -2 --b --m 4": "--n 3 --l [1,-2] --b true --m [4]",
        "--l [1,2] --b false": "--l [1,2] --b false",
        "--l=[1] --b": "--l=[1] --b true",
        "--o 1 --b": "--o 1 --b true",
        "--b --n 3 word": "--b true --n 3 word",
        "--o 1 2 --l=1,2 --m=3": "--o [1,2] --l=[1,2] --m=[3]",
        "--s 1,2 --s inf --n 1,2 --n -inf": "--s 1,2 --s inf --n [1,2] --n=-.inf",
        "--model.x 1 2 --model.y=1.5,2e3 --model.z INF --model.w "
        "a,b": "--model.x [1,2] --model.y=[1.5,2e3] --model.z .inf --model.w a,b",
    }
    for given, expected in cases.items():
        assert " ".join(spell_out(given.split(), options)) == expected


def test_the_teacher_draws_from_the_same_noise(freeflow, checkpoint):
    options = ["sample", "--checkpoint", checkpoint, "--num_samples", 5, "--npz", "--guidance", 1.5]
    assert (
        freeflow(*options, "--teacher", "--steps", 3, "--method", "euler", "--output", "t")[0] == 0
    )
    flow_map = FlowMap.from_checkpoint(checkpoint)
    z, condition = Draw(0).noise(flow_map.teacher, torch.arange(5))
    x = TeacherSampler(flow_map.teacher, "euler", 3, 1.5)(z, condition)
    expected = pictures(flow_map.teacher, x).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.load("t/samples.npz")["arr_0"].astype(int) - expected).max() <= 1
    code, _, err = freeflow(*options, "--steps", 3)
    assert code == 1
    assert "trained from prior to any alone: expected steps 1, got 3 steps by 'chain'" in err
    code, _, err = freeflow(*options, "--teacher", "--sampler", "renoise")
    assert code == 1
    assert "--sampler and --noise_share are the student's, and here the teacher draws" in err


def test_an_interrupted_run_is_continued_and_another_one_not_mixed_in(
    freeflow, checkpoint, tmp_path
):
    options = ["sample", "--checkpoint", checkpoint, "--num_samples", 150]
    for name in ("whole", "broken"):
        assert freeflow(*options, "--output", name)[0] == 0
    whole = files(tmp_path / "whole")
    kept = (tmp_path / "broken/000003.png").stat().st_mtime_ns
    (tmp_path / "broken/000100.png").unlink()
    (tmp_path / "broken/000101.png").write_bytes(b"half")
    assert freeflow(*options, "--output", "broken", "--batch_size", 7)[0] == 0
    assert files(tmp_path / "broken") == whole
    assert (tmp_path / "broken/000003.png").stat().st_mtime_ns == kept  # not drawn again
    code, _, err = freeflow(*options, "--output", "broken", "--seed", 1)
    assert code == 1
    assert "broken holds samples of another seed: choose another --output, or --overwrite" in err
    assert freeflow(*options, "--output", "broken", "--seed", 1, "--overwrite")[0] == 0
    assert files(tmp_path / "broken") != whole


def test_guidance_that_was_not_trained_for_warns_with_the_range(freeflow, checkpoint):
    with pytest.warns(UserWarning, match=r"guidance 3.0 is outside \[1.0, 2.0\]"):
        freeflow("sample", "--checkpoint", checkpoint, "--guidance", 3.0, "--num_samples", 1)


@pytest.mark.slow
def test_two_processes_and_a_kill_give_the_same_files(freeflow, checkpoint, tmp_path):
    exported = ["--checkpoint", checkpoint, "--output", "student"]  # needs torch alone
    assert freeflow("export", *exported)[0] == 0
    sizes = ["--checkpoint", "student", "--num_samples", 400, "--npz"]
    assert freeflow("sample", *sizes, "--output", "one")[0] == 0
    shared = ["--output", "two", "--devices", 2, "--batch_size", 33]
    assert forks.run(forks.freeflow, "sample", *sizes, *shared) == (
        "400 samples at guidance 1.25 in two\n"
    )
    killed = forks.start(forks.freeflow, "sample", *sizes, "--output", "killed", "--batch_size", 2)
    with forks.ended(killed):
        while len(list((tmp_path / "killed").glob("parts/0*.npz"))) < 2:
            assert killed.is_alive()
            time.sleep(0.01)
    assert not (tmp_path / "killed/samples.npz").exists()
    first = min((tmp_path / "killed/parts").glob("0*.npz"))
    before = first.stat().st_mtime_ns
    assert before < time.time_ns()
    assert freeflow("sample", *sizes, "--output", "killed")[0] == 0
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_evaluate_as_one(freeflow, checkpoint):
    options = ["evaluate", "--checkpoint", checkpoint, *QUICK]
    assert freeflow(*options, "--output", "one")[0] == 0
    words = [*options, "--output", "two", "--devices", 2]
    forks.run_together(2, forks.freeflow, *words, FREEFLOW_CACHE="another")
    one, two = (json.loads(Path(name, "evaluation.json").read_text()) for name in ("one", "two"))
    assert one["scores"].keys() == two["scores"].keys()
    for name, score in one["scores"].items():
        assert two["scores"][name]["value"] == pytest.approx(score["value"], rel=1e-6), name


# Evaluation


def test_the_figures_are_those_of_the_samples(freeflow, checkpoint, tmp_path, caplog):
    code, out, err = freeflow(
        "evaluate", "--checkpoint", checkpoint, *QUICK, "--features", "flat", "--output", "e"
    )
    assert code == 0, err
    result = json.loads((tmp_path / "e/evaluation.json").read_text())
    flow_map = FlowMap.from_checkpoint(checkpoint)
    metric = FrechetDistance(FlatFeatures(48))

    def drawn(stream, n, seed):
        z, condition = Draw(seed, stream=stream).noise(flow_map.teacher, torch.arange(n))
        return TeacherSampler(flow_map.teacher, "heun", 2, 1.25)(z, condition), flow_map(
            z, condition, 1.25
        )

    metric.update(pictures(flow_map.teacher, drawn("reference", 50, 1)[0]), real=True)
    metric.update(pictures(flow_map.teacher, drawn("samples", 40, 0)[1]), real=False)
    assert result["scores"]["fid"]["value"] == pytest.approx(float(metric.compute()), rel=1e-3)
    metric.reset()
    metric.update(pictures(flow_map.teacher, drawn("floor", 40, 1)[0]), real=False)
    assert result["floor"]["fid"]["value"] == pytest.approx(float(metric.compute()), rel=1e-3)
    x, f = (part[:16].flatten(1) for part in drawn("samples", 16, 0))
    error = ((f - x).norm(dim=1) / x.norm(dim=1)).mean()
    assert result["scores"]["endpoint_error"]["value"] == pytest.approx(float(error), rel=1e-4)
    assert sum(row["samples"] for row in result["classes"]) == 40
    assert result["about"]["samples"] == 40
    assert len(result["about"]["features"]["weights"]) == 64
    assert "| FID |" in (tmp_path / "e/evaluation.md").read_text()
    assert "endpoint error" in out
    assert "freeflow evaluate: Flat features" in out
    assert "FID of 40 samples in 48 features" in caplog.text


def test_training_and_evaluation_share_the_reference(freeflow, checkpoint):
    assert freeflow("evaluate", "--checkpoint", checkpoint, *QUICK, "--features", "flat")[0] == 0
    kept = files(cache_folder())
    assert len(kept) == 3  # reference, floor, endpoints
    assert (
        freeflow(
            "evaluate",
            "--checkpoint",
            checkpoint,
            *QUICK,
            "--features",
            "flat",
            "--seed",
            1,
            "--paired_samples",
            0,
        )[0]
        == 0
    )
    assert files(cache_folder()) == kept
    from freeflow_lightning.callbacks import PeriodicFID
    from freeflow_lightning.students.training_module import build_module
    from freeflow_lightning.training.training_checkpoint import open_checkpoint
    from tiny import data, trainer

    m = build_module(open_checkpoint(checkpoint), {})
    fid = PeriodicFID(FrechetDistance(FlatFeatures(48)), reference_samples=50, steps=2)
    trainer(callbacks=[fid]).validate(m, data(val_samples=40), verbose=False)
    assert files(cache_folder()) == kept


def test_given_statistics_and_the_teacher_itself(freeflow, checkpoint, tmp_path):
    drawn = [
        "sample",
        "--checkpoint",
        checkpoint,
        "--num_samples",
        40,
        "--npz",
        "--teacher",
        "--steps",
        2,
    ]
    assert freeflow(*drawn, "--output", "t")[0] == 0
    options = [*QUICK, "--features", "flat", "--reference", "t/samples.npz", "--paired_samples", 0]
    assert (
        freeflow("evaluate", "--checkpoint", checkpoint, *options, "--teacher", "--steps", 2)[0]
        == 0
    )
    result = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert result["scores"]["fid"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["scores"]["coverage"]["value"] == 1
    assert result["floor"] == {}
    assert result["about"]["reference"] == {"file": "t/samples.npz", "pictures in it": 40}


def test_real_faces_are_a_reference_by_name():
    student = FlowMap(nn.Linear(1, 1), SiTTeacher("embedded:faces"), (1.0, 1.0))
    features = pick_features("auto", None, student.teacher, student.device)
    assert isinstance(features, FacesFeatures)
    table = read_reference("faces", features, student, Processes())
    assert torch.equal(table.moments["features"].covariance, load_moments().covariance)
    assert len(table.rows["labels"]) == 2000


def test_real_digits_are_a_reference_by_name(tmp_path):
    student = FlowMap(nn.Linear(1, 1), SiTTeacher("embedded:digits"), (1.0, 1.0))
    features = pick_features("auto", None, student.teacher, student.device)
    table = read_reference("digits", features, student, Processes())
    digits, labels = load_digits()
    assert torch.equal(table.rows["labels"], labels)
    np.savez(tmp_path / "digits.npz", arr_0=to_uint8(digits).permute(0, 2, 3, 1).numpy())
    of_file = read_reference(str(tmp_path / "digits.npz"), features, student, Processes())
    close = {"rtol": 1e-5, "atol": 1e-5}  # a convolution's last digits are those of the layout
    torch.testing.assert_close(table.moments["features"], of_file.moments["features"], **close)


def test_a_reference_that_is_no_file_has_the_names_listed():
    student = FlowMap(nn.Linear(1, 1), SiTTeacher("embedded:digits"), (1.0, 1.0))
    words = "no statistics at digit: expected teacher, faces or digits, or ADM's .npz"
    with pytest.raises(FileNotFoundError, match=words):
        read_reference("digit", FlatFeatures(64), student, Processes())


class Bright(FeatureNetwork):
    """A user's features: the mean of each channel."""

    num_features = 3
    note = "of colours alone"

    def forward(self, samples):
        return samples.float().mean(dim=(2, 3))


def test_a_users_own_features(freeflow, checkpoint, tmp_path):
    options = [*QUICK, "--features", f"{__name__}.Bright", "--floor", "false"]
    assert freeflow("evaluate", "--checkpoint", checkpoint, *options)[0] == 0
    result = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert result["about"]["features"]["class"].endswith("Bright")
    page = next(tmp_path.rglob("evaluation.md")).read_text()
    assert "Seen by Bright features, of colours alone." in page
    assert result["floor"] == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--features", "inception"], "no Inception weights at"),
        (
            ["--features", "inception", "--weights", "gone.pth"],
            "no Inception weights at gone.pth: download weights-inception",
        ),
        (["--features", "dinov2"], "no DINOv2 weights: download them"),
        (
            ["--features", "flat", "--weights", "x"],
            "--weights is a file for --features inception or dinov2",
        ),
        (["--features", "digits"], "expected digits of shape [B, 1, 8, 8]"),
        (
            ["--reference", "gone.npz"],
            "no statistics at gone.npz: expected teacher, faces or digits, or ADM's",
        ),
        (["--num_samples", "0"], "at least 2 samples on either side, got 0"),
        (["--classes", "9"], "expected classes in 0 .. 4, got [9]"),
        (["--classes", "1", "--balanced"], "leave --classes out"),
        (["--method", "euler"], "--method is the teacher's: add --teacher"),
        (["--devices", "0"], "at least one device, got 0"),
    ],
)
def test_evaluate_says_what_is_wrong(freeflow, checkpoint, options, words, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    code, _, err = freeflow("evaluate", "--checkpoint", checkpoint, *QUICK, *options)
    assert code != 0
    assert words in err
    assert len(err.splitlines()) == 2


# Diagnosis


@pytest.mark.parametrize("steps", [2, 0])
@pytest.mark.slow
def test_the_page_holds_its_pictures(freeflow, checkpoint, tmp_path, steps):
    options = [
        "--num_samples",
        20,
        "--fine_steps",
        16,
        "--auxiliary_steps",
        steps,
        "--batch_size",
        16,
    ]
    code, out, err = freeflow("diagnose", "--checkpoint", checkpoint, *options)
    assert code == 0, err
    text = (tmp_path / "diagnosis/diagnosis.html").read_text()
    assert text.count("data:image/png;base64,") == 10 + (steps > 0)
    assert "http" not in text  # nothing is fetched
    numbers = json.loads((tmp_path / "diagnosis/diagnosis.json").read_text())
    assert (numbers["auxiliary"] is None) == (steps == 0)
    assert "guidance 1.25, 20 samples" in numbers["about"]  # the run's
    errors = numbers["solver_errors"]["heun"]
    assert errors["8"] < errors["4"] < errors["2"]
    assert "endpoint: relative error" in out


@pytest.mark.slow
def test_points_are_diagnosed_too(freeflow, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    from freeflow_lightning.callbacks import StudentEMA
    from tiny import fit, module

    fit(
        module(),
        StudentEMA([0.9]),
        ModelCheckpoint(tmp_path, "last", every_n_train_steps=2),
        max_steps=2,
        enable_checkpointing=True,
    )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    means = {"means": [[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0]], "std": 0.4, "labels": [0, 1, 1]}
    network = {"sample_shape": [2], "hidden_size": 16, "depth": 2, "num_classes": 2}
    arguments = {
        "teacher": {
            "class_path": "freeflow_lightning.teachers.GaussianMixtureTeacher",
            "init_args": means,
        },
        "network": {"class_path": "freeflow_lightning.nets.MLP", "init_args": network},
    }
    built = {"class_path": "freeflow_lightning.FreeFlowModule", "init_args": arguments}
    torch.save(checkpoint | {"hyper_parameters": built}, tmp_path / "last.ckpt")
    options = ["--checkpoint", tmp_path / "last.ckpt", "--num_samples", 32]
    code, _, err = freeflow("diagnose", *options, "--fine_steps", 8, "--auxiliary_steps", 1)
    assert code == 0, err
    code, _, err = freeflow("evaluate", *options, "--reference_samples", 40, "--reference_steps", 2)
    assert code == 0, err


def test_diagnose_says_what_is_wrong(freeflow, checkpoint):
    for options, words in (
        (["--num_samples", 2], "at least 16 samples"),
        (["--features", "inception", "--weights", "gone.pth"], "no Inception weights at gone.pth"),
    ):
        code, _, err = freeflow("diagnose", "--checkpoint", checkpoint, *options)
        assert code == 1
        assert words in err
        assert len(err.splitlines()) == 2
