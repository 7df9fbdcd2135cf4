"""--steps and --sampler in every verb, on a student that was trained for maps between any two times."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from commands.test_evaluate import QUICK
from freeflow_lightning import FlowMap
from freeflow_lightning.sampling.draw import pictures
from students.export import students


@pytest.fixture
def any_step(tmp_path):
    """The folder of a student of pictures [3, 4, 4] in five classes, and the student."""
    made = students.sit()
    made.about["pairs"] = "any to any"
    made.save_pretrained(tmp_path / "student")
    return tmp_path / "student", made


def drawn(folder) -> np.ndarray:
    return np.load(Path(folder, "samples.npz"))["arr_0"]


def seen(made, x) -> np.ndarray:
    return pictures(made.teacher, x).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("sampler", ["chain", "renoise", "gamma"])
def test_samples_in_four_steps_and_what_their_note_says(freeflow, any_step, sampler):
    folder, made = any_step
    options = ["sample", "--checkpoint", folder, "--num_samples", 70, "--npz", "--steps", 4]
    for size in (5, 64):
        words = ("--sampler", sampler, "--batch_size", size, "--output", f"of_{size}")
        code, _, err = freeflow(*options, *words)
        assert code == 0, err
    assert np.array_equal(drawn("of_5"), drawn("of_64"))
    expected = seen(made, made.sample(70, steps=4, sampler=sampler))
    assert np.abs(drawn("of_64").astype(int) - expected).max() <= 1
    note = json.loads(Path("of_64/samples.json").read_text())
    assert (note["steps"], note["sampler"]) == (4, sampler)
    code, _, err = freeflow(*options, "--steps", 2, "--sampler", sampler, "--output", "of_64")
    assert code == 1
    assert "holds samples of another drawn by, steps" in err


def test_pictures_in_four_steps_do_not_depend_on_the_batch(freeflow, any_step):
    """Nor on the processes, which share parts of 64 (test_evaluate.py)."""
    folder, _ = any_step
    options = ["sample", "--checkpoint", folder, "--num_samples", 200, "--npz", "--steps", 4]
    options += ["--sampler", "gamma"]  # of which the others are ends
    for name, size in {"one": 256, "two": 33}.items():
        assert freeflow(*options, "--output", name, "--batch_size", size)[0] == 0
    assert np.array_equal(drawn("one"), drawn("two"))


def test_an_evaluation_shows_1_2_4_and_8_steps_side_by_side(freeflow, any_step):
    """And of a student that was trained at a list of times those whose times it knows."""
    folder, made = any_step
    shared = ["--checkpoint", folder, "--num_samples", 40]
    assert freeflow("sample", *shared, "--seed", 1, "--npz", "--output", "r")[0] == 0
    options = ["--features", "flat", "--reference", "r/samples.npz"]
    code, out, err = freeflow("evaluate", *shared, *options)
    assert code == 0, err
    result = json.loads(Path("evaluation/evaluation.json").read_text())
    sides = result["by_steps"]
    assert [side["steps"] for side in sides] == [1, 2, 4, 8]
    assert sides[0]["scores"] == result["scores"]
    header = "|  | student, 1 step | student, 2 steps | student, 4 steps | student, 8 steps |"
    assert header in Path("evaluation/evaluation.md").read_text()
    assert "by steps" in out

    words = ("--steps", 4, "--sampler", "chain", "--output", "four")
    assert freeflow("evaluate", *shared, *options, *words)[0] == 0
    four = json.loads(Path("four/evaluation.json").read_text())
    assert four["scores"] == sides[2]["scores"]
    assert four["about"]["steps"] == 4
    assert "by_steps" not in four

    made.about |= {"pairs": "any to data", "starts": (1.0, 0.75, 0.5, 0.25)}
    made.save_pretrained("listed")
    shared[1] = "listed"
    assert freeflow("evaluate", *shared, *options, "--output", "some")[0] == 0
    some = json.loads(Path("some/evaluation.json").read_text())["by_steps"]
    names = ["student, 1 step", "student, 2 steps, renoise", "student, 4 steps, renoise"]
    assert [side["drawn by"] for side in some] == names


def test_a_search_by_several_steps_counts_each(freeflow, any_step, tmp_path, monkeypatch):
    (tmp_path / "bright_verifier.py").write_text(
        "def brightness(samples, condition):\n    return samples.float().flatten(1).mean(1)\n"
    )
    folder, made = any_step
    options = ["--candidates", 3, "--teacher_steps", 0, "--num_samples", 10, "--npz"]
    options += ["--verifier", "bright_verifier.brightness", "--steps", 2, "--output", "s"]
    code, _, err = freeflow("search", "--checkpoint", folder, *options)
    assert code == 0, err
    report = json.loads(Path("s/search.json").read_text())
    assert report["nfe"]["per sample"]["search"] == {"student": 6, "teacher": 0}
    assert (report["about"]["steps"], report["about"]["sampler"]) == (2, "chain")
    plain = drawn("s/student_unsearched")
    assert np.abs(plain.astype(int) - seen(made, made.sample(10, steps=2))).max() <= 1


@pytest.mark.parametrize("verb", ["sample", "evaluate", "search", "export"])
def test_steps_that_were_not_trained_are_refused(freeflow, checkpoint, verb):
    options = {"evaluate": QUICK, "export": ["--output", "out"]}.get(verb, [])
    code, _, err = freeflow(verb, "--checkpoint", checkpoint, *options, "--steps", 4)
    assert code == 1
    assert "trained from prior to any alone: expected steps 1, got 4 steps" in err


@pytest.mark.slow
def test_an_export_holds_a_graph_of_its_steps_and_says_so(freeflow, any_step):
    folder, made = any_step
    words = ("--steps", 2, "--sampler", "renoise", "--pt2", "--output", "out", "--device", "cpu")
    code, _, err = freeflow("export", "--checkpoint", folder, *words)
    assert code == 0, err
    graph = torch.export.load("out/flow_map.pt2").module()
    z, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 3, 4, 4)
    labels, gamma = torch.tensor([1, 4]), torch.tensor([1.2, 1.9])
    one, half = torch.ones(2), torch.full((2,), 0.5)
    with torch.no_grad():
        x = z + made.network(z, one, labels, delta=one, gamma=gamma)
        x = 0.5 * x + 0.5 * noise[:, 0]
        x = x + 0.5 * made.network(x, half, labels, delta=half, gamma=gamma)
    torch.testing.assert_close(graph(z, gamma, labels, noise), x, atol=1e-5, rtol=1e-4)
    card = Path("out/README.md").read_text()
    assert "noise [B, 1, ...] to sample in 2 steps, renoise" in card
    assert "steps=4" in card
    assert FlowMap.from_pretrained("out").pairs.value == "any to any"
