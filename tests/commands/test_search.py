"""freeflow search as one runs it: folders, evaluations, a kill, two processes, wrong input."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import forks
from commands.test_evaluate import files
from freeflow_lightning import FlowMap
from freeflow_lightning.sampling.draw import Draw, pictures

MINE = """
import torch
from torch import nn

def brightness(samples, condition):
    return samples.float().flatten(1).mean(1)

class Redness(nn.Module):
    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, samples, condition):
        return self.weight * samples[:, 0].float().flatten(1).mean(1)

def shapeless(samples, condition):
    return samples.float()
"""
QUICK = [
    "--candidates",
    5,
    "--teacher_steps",
    2,
    "--num_samples",
    10,
    "--verifier",
    "my_verifier.brightness",
]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_verifier.py").write_text(MINE)
    monkeypatch.delitem(sys.modules, "my_verifier", raising=False)
    yield tmp_path
    sys.modules.pop("my_verifier", None)


def test_the_best_candidate_goes_to_the_teacher_and_all_is_written(freeflow, checkpoint, mine):
    code, out, err = freeflow("search", "--checkpoint", checkpoint, *QUICK, "--output", "s")
    assert code == 0, err
    folder = mine / "s"
    rows = ("student_unsearched", "student", "unsearched", "searched")
    assert {path.name for path in folder.iterdir()} == {
        *rows,
        "scores",
        "search.json",
        "search.png",
    }
    assert all(len(list((folder / row).glob("0*.png"))) == 10 for row in rows)
    report = json.loads((folder / "search.json").read_text())
    assert report["nfe"]["per sample"] == {
        "search": {"student": 5, "teacher": 0},
        "handed_over": {"student": 0, "teacher": 8},  # two steps of Heun, guided
        "total": 13,
    }
    assert report["nfe"]["all samples"]["used"]["total"] >= 130
    assert report["mean score"]["student"] > report["mean score"]["student_unsearched"]
    flow_map = FlowMap.from_checkpoint(checkpoint)
    z, condition = Draw(0).noise(flow_map.teacher, torch.arange(10))
    plain = pictures(flow_map.teacher, flow_map(z, condition, 1.25))
    written = np.stack(
        [np.asarray(Image.open(folder / f"student_unsearched/{i:06d}.png")) for i in range(10)]
    )
    assert np.abs(written.transpose(0, 3, 1, 2).astype(int) - plain.numpy()).max() <= 1
    bright = [np.asarray(Image.open(folder / f"searched/{i:06d}.png")).mean() for i in range(10)]
    assert report["scores"]["searched"] == pytest.approx(
        bright, rel=1e-4
    )  # what is scored is what is written
    assert "13 (5 student + 8 teacher)" in out


@pytest.mark.parametrize(
    "options",
    [["--algorithm", "zero_order", "--radius", 0.5], ["--algorithm", "paths", "--paths", 1]],
)
def test_every_algorithm_runs_and_its_result_does_not_depend_on_the_batch(
    freeflow, checkpoint, mine, options
):
    for name, size in (("a", 256), ("b", 3)):
        done = freeflow(
            "search",
            "--checkpoint",
            checkpoint,
            *QUICK,
            *options,
            "--output",
            name,
            "--batch_size",
            size,
        )
        assert done[0] == 0, done[2]
    a, b = (files(mine / name) for name in "ab")
    assert {k: v for k, v in a.items() if k.endswith("png")} == {
        k: v for k, v in b.items() if k.endswith("png")
    }
    a, b = (json.loads((mine / name / "search.json").read_text()) for name in "ab")
    assert a["scores"] == b["scores"]
    assert a["nfe"]["per sample"] == b["nfe"]["per sample"]


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_another_one_is_not_mixed_in(freeflow, checkpoint, mine):
    options = ["search", "--checkpoint", checkpoint, *QUICK, "--num_samples", 70, "--candidates", 2]
    for name in ("whole", "broken"):
        assert freeflow(*options, "--output", name)[0] == 0
    whole, kept = files(mine / "whole"), (mine / "broken/searched/000003.png").stat().st_mtime_ns
    (mine / "broken/student/000069.png").unlink()
    (mine / "broken/scores/00000064-00000069.json").unlink()
    assert freeflow(*options, "--output", "broken")[0] == 0
    assert files(mine / "broken") == whole
    assert (mine / "broken/searched/000003.png").stat().st_mtime_ns == kept  # not drawn again
    for changed, words in (
        (["--seed", 1], "another seed"),
        (["--verifier", "my_verifier.shapeless"], "another verifier"),
    ):
        code, _, err = freeflow(*options, *changed, "--output", "broken")
        assert code == 1
        assert words in err
    assert freeflow(*options, "--seed", 1, "--output", "broken", "--overwrite")[0] == 0
    assert files(mine / "broken") != whole


def test_a_students_samples_alone_as_npz(freeflow, checkpoint, mine):
    options = [
        "--teacher_steps",
        0,
        "--npz",
        "--compare",
        "false",
        "--verifier",
        "my_verifier.Redness",
        "--verifier.weight",
        2,
    ]
    assert freeflow("search", "--checkpoint", checkpoint, *QUICK, *options, "--output", "s")[0] == 0
    with np.load(mine / "s/student/samples.npz") as held:
        red = 2 * held["arr_0"][..., 0].reshape(10, -1).mean(1)
    report = json.loads((mine / "s/search.json").read_text())
    assert report["scores"]["student"] == pytest.approx(red.tolist(), rel=1e-4)
    assert report["nfe"]["per sample"]["total"] == 5
    assert not (mine / "s/searched").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "say what a good sample is: --verifier my_file.MyVerifier"),
        (
            ["--verifier", "my_verifier.gone"],
            "verifier: module 'my_verifier' has no attribute 'gone'",
        ),
        (["--verifier", "my_verifier.Redness"], "verifier: missing: weight"),
        (
            ["--verifier", "TargetDistance", "--verifier.target", "gone.png"],
            "no target at gone.png",
        ),
        (["--verifier", "my_verifier.shapeless"], "a verifier gives one score a sample"),
        (
            ["--verifier", "my_verifier.brightness", "--radius", 0.3],
            "--radius has no effect on --algorithm random",
        ),
        (
            ["--verifier", "my_verifier.brightness", "--start_time", 0.3],
            "--start_time has no effect on --algorithm random",
        ),
        (
            ["--verifier", "my_verifier.brightness", "--path_steps", 3],
            "--path_steps has no effect on --algorithm random",
        ),
        (
            ["--verifier", "my_verifier.brightness", "--candidates", 0],
            "expected candidates to be an integer of at least 1, got 0",
        ),
        (["--verifier", "my_verifier.brightness", "--classes", 9], "expected classes in 0 .. 4"),
        (
            ["--verifier", "my_verifier.brightness", "--algorithm", "genetic"],
            "algorithm: expected one of random",
        ),
        (["--verifier", "my_verifier.brightness", "--teacher_steps", -1], "no negative steps"),
    ],
)
def test_it_says_what_is_wrong(freeflow, checkpoint, mine, options, words):
    code, _, err = freeflow(
        "search", "--checkpoint", checkpoint, "--num_samples", 2, "--candidates", 2, *options
    )
    assert code != 0
    assert words in err
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err


@pytest.mark.slow
def test_two_processes_give_the_same_files(freeflow, checkpoint, mine):
    options = ["search", "--checkpoint", checkpoint, *QUICK, "--num_samples", 200]
    assert freeflow(*options, "--output", "one")[0] == 0
    forks.run_together(2, forks.freeflow, *options, "--output", "two", "--devices", 2)
    assert files(mine / "one") == files(mine / "two")
