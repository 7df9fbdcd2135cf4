"""freeflow compare, on a mixture of two Gaussians and a network of a few hundred weights."""

import json
import sys
from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.commands import compare as verb
from freeflow_lightning.commands import main as cli
from freeflow_lightning.commands.views.comparison import spread_in_words
from freeflow_lightning.evaluation.methods import Spread
from freeflow_lightning.evaluation.yardstick import Yardstick
from freeflow_lightning.metrics.scores import relative_error
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler

TEACHER = {
    "class_path": "GaussianMixtureTeacher",
    "init_args": {"means": [[2.0, 0.0], [-2.0, 0.5]], "std": 0.4, "labels": [0, 1]},
}
NETWORK = {
    "class_path": "freeflow_lightning.nets.MLP",
    "init_args": {"sample_shape": [2], "hidden_size": 16, "depth": 2, "num_classes": 2},
}
COMMON = {
    "teacher": TEACHER,
    "network": NETWORK,
    "guidance_range": [1.0, 1.0],
    "evaluation_guidance": 1.0,
    "student_lr": 1e-3,
    "skip_idle_rows": False,
}
CALLBACKS = [{"class_path": name} for name in ("StudentEMA", "TrajectoryError", "SampleGrid")]
BATCH, AMOUNT = 8, 1500
FEW = ["--num_samples=40", "--reference_samples=40", "--reference_steps=4", "--paired_samples=8"]
TWO = ["compare", "--config", "one.yaml", "any.yaml", "--points=2", f"--amount={AMOUNT}", *FEW]
TWO += ["--seeds", "0", "1"]


def write(name, module="FreeFlowModule", **changes):
    """Write a config of a recipe with other arguments than the common ones."""
    model = {"class_path": f"freeflow_lightning.{module}", "init_args": COMMON | changes}
    data = {"class_path": "PriorDataModule", "init_args": {"batch_size": BATCH, "length": 5}}
    trainer = {"accelerator": "cpu", "max_steps": 6, "callbacks": CALLBACKS}
    Path(name).write_text(json.dumps({"model": model, "data": data, "trainer": trainer}))


def write_two():
    """A method of one step and one of several."""
    write("one.yaml", correction_fraction=0.5)
    write("any.yaml", "FlowMapModule", student_lr=2e-3)


def read(folder=Path("comparison")):
    return json.loads((folder / "comparison.json").read_text())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of two methods with two seeds each."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FREEFLOW_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["freeflow", *TWO])
        write_two()
        cli.main()
    return folder / "comparison"


@pytest.fixture
def no_plot(monkeypatch):
    """Leave out the picture, which takes longer than all the training here."""
    monkeypatch.setattr(verb, "plot_comparison", lambda comparison: b"")


def test_every_run_spends_the_same_evaluations_by_their_own_count(compared):
    one, several = (method["runs"][0]["points"][-1] for method in read(compared)["methods"])
    # half of the rows predict (student 3 + 1, teacher 2), half are corrected (student 3, auxiliary
    # 3, teacher 1); rows of a map take a student of 3 + 1, 1 for the path to them, and a teacher of 1
    half = BATCH / 2
    assert one["evaluations"] == {
        "student": one["steps"] * (half * (3 + 1) + half * 3),
        "auxiliary": one["steps"] * half * 3,
        "teacher": one["steps"] * (half * 2 + half * 1),
    }
    assert several["evaluations"] == {
        "student": several["steps"] * BATCH * (3 + 1 + 1),
        "teacher": several["steps"] * BATCH * 1,
    }
    for point in (one, several):
        spent = sum(point["evaluations"].values())
        assert AMOUNT <= spent < AMOUNT + spent / point["steps"]


def test_a_killed_comparison_goes_on_to_the_same_table(compared, freeflow, monkeypatch, no_plot):
    measured, by_steps = [], Yardstick.by_steps

    class Killed(BaseException):
        """Power cut."""

    def cut(self, module):
        measured.append(module)
        if len(measured) == 4:  # the second run, which has been saved once
            raise Killed
        return by_steps(self, module)

    monkeypatch.setattr(Yardstick, "by_steps", cut)
    write_two()
    with pytest.raises(Killed):
        freeflow(*TWO)
    assert not Path("comparison/comparison.md").exists()
    for _ in range(2):
        code, _, error = freeflow(*TWO)
        assert code == 0, error
        assert len(measured) == 2 * 2 * 2 + 1  # each point once, and the one that was cut
        page = Path("comparison/comparison.md").read_bytes()
        assert page == (compared / "comparison.md").read_bytes()


def test_the_figures_are_those_of_freeflow_evaluate(compared, freeflow):
    final = read(compared)["methods"][1]["runs"][0]["points"][-1]["figures"]
    (checkpoint,) = (compared / "runs").glob("any-rate1-seed0-*/last.ckpt")
    code, _, error = freeflow("evaluate", "--checkpoint", checkpoint, *FEW, "--guidance", 1)
    assert code == 0, error
    apart = json.loads(Path("evaluation/evaluation.json").read_text())["scores"]
    for name in ("fid", "endpoint_error", "recall", "diversity"):
        assert final["1"][name] == pytest.approx(apart[name]["value"], rel=1e-6)
    student = FlowMap.from_checkpoint(checkpoint)
    z, condition = Draw().noise(student.teacher, torch.arange(8))
    x = TeacherSampler(student.teacher, "heun", 4)(z, condition)
    apart = relative_error(student.chain(z, condition, 1.0, steps=4), x).mean()
    assert final["4"]["endpoint_error"] == pytest.approx(float(apart), rel=1e-5)


def test_the_table_has_a_line_for_each_number_of_steps(compared):
    lines = (compared / "comparison.md").read_text().splitlines()
    steps = {
        name: [line.split(" | ")[1] for line in lines if line.startswith(f"| {name} | ")]
        for name in ("one", "any")
    }
    assert steps == {"one": ["1", "1"], "any": ["1", "2", "4", "8", "1"]}  # the last are the rates
    assert (compared / "comparison.png").read_bytes().startswith(b"\x89PNG")
    (several,) = (method for method in read(compared)["methods"] if method["name"] == "any")
    a, b = (run["points"][-1]["figures"]["4"]["fid"] for run in several["runs"])
    fid = several["final"]["4"]["fid"]
    assert (fid["mean"], fid["deviation"]) == pytest.approx(((a + b) / 2, abs(a - b) / 2**0.5))
    shown = spread_in_words(Spread(fid["mean"], fid["deviation"]))
    assert f"| any | 4 | {shown} |" in "\n".join(lines)


def test_a_run_that_diverges_is_a_row_and_the_first_seed_picks_the_rate(freeflow, no_plot):
    write_two()
    write("wild.yaml", student_lr=1e30)
    words = ["--config", "wild.yaml", "one.yaml", "--rates", "0.5", "4", "--seeds", "3", "4"]
    code, out, error = freeflow("compare", *words, *FEW, "--points=1", "--amount=900")
    assert code == 0, error
    assert "wild, seed 3, rate 0.5: diverged at step" in out
    wild, one = read()["methods"]
    assert "not finite at step" in wild["runs"][0]["failure"]
    assert wild["final"] == {}
    tried = one["rates tried"]
    assert one["rate"] == min((0.5, 4.0), key=lambda rate: tried[f"{rate:g}"])
    assert [(run["seed"], run["rate"]) for run in one["runs"]] == [
        (3, one["rate"]),
        (4, one["rate"]),
    ]
    page = Path("comparison/comparison.md").read_text()
    assert "| wild |  | diverged |" in page
    assert "0 of 2" in page
    assert f"- one: 0.5 {tried['0.5']:.4g}, 4 {tried['4']:.4g}" in page


def test_seconds_of_training_and_a_config_of_two_files(freeflow, no_plot):
    write_two()
    Path("fast.yaml").write_text('{"model": {"init_args": {"student_lr": 0.01}}}')
    words = ["--budget=seconds", "--amount=0.05", "--seeds=0", "--points=1", *FEW]
    code, _, error = freeflow("compare", "--config", "any.yaml+fast.yaml", *words)
    assert code == 0, error
    (method,) = read()["methods"]
    assert method["name"] == "fast"
    assert method["runs"][0]["points"][-1]["seconds"] >= 0.05
    (checkpoint,) = Path("comparison/runs").glob("fast-*/last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["init_args"]["student_lr"] == 0.01


def test_the_budget_of_the_first_config_where_none_is_given(freeflow, no_plot):
    """Of micro-batches too; rates fall over the same share of it."""
    write("falling.yaml", correction_fraction=0.5, lr_decay_steps=6)
    halves = ["--trainer.accumulate_grad_batches=2", "--data.length=4"]
    words = ["--seeds=0", "--points=1", *halves, *FEW]
    code, _, error = freeflow("compare", "falling.yaml", *words)
    assert code == 0, error
    (method,) = read()["methods"]
    assert method["runs"][0]["points"][-1]["steps"] == 6
    (checkpoint,) = Path("comparison/runs").glob("falling-*/last.ckpt")
    (optimizer,) = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    group = optimizer["param_groups"][0]
    assert 0 < group["lr"] < group["initial_lr"] / 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("one.yaml other.yaml", "other.yaml has another teacher than one.yaml"),
        ("one.yaml guided.yaml", "different guidance scales"),
        ("broken.yaml", "broken.yaml: expected correction_fraction"),
        ("missing.yaml", "no config at missing.yaml"),
        ("one.yaml+missing.yaml", "no config at missing.yaml"),
        ("one.yaml one.yaml", "expected --config to be one or more different values"),
        ("one.yaml --budget hours", "hours"),
        ("one.yaml --budget seconds", "give --amount SECONDS"),
        ("one.yaml --amount 0", "amount"),
        ("one.yaml --rates 0", "rates"),
        ("one.yaml --seeds 1 1", "expected --seeds"),
        ("one.yaml --amount 600 --statistics missing.npz", "missing.npz"),
        ("one.yaml --amount 9 --model.lr_decay_steps 3 --trainer.max_steps -1", "max_steps, or"),
    ],
)
def test_refusals_come_before_any_training(freeflow, words, message):
    write_two()
    other = TEACHER | {"init_args": TEACHER["init_args"] | {"std": 0.5}}
    write("other.yaml", teacher=other)
    write("guided.yaml", guidance_range=[1.0, 2.0], evaluation_guidance=2.0)
    write("broken.yaml", correction_fraction=2.0)
    code, _, error = freeflow("compare", "--config", *words.split(), *FEW)
    assert code in (1, 2)
    assert message in error
    assert "Traceback" not in error
    assert not list(Path().glob("comparison/runs/*"))


def test_a_file_of_somebody_else_is_not_overwritten(freeflow):
    write_two()
    Path("comparison").mkdir()
    Path("comparison/comparison.md").write_text("mine")
    code, _, error = freeflow(*TWO)
    assert code == 1
    assert "has not written" in error
    assert Path("comparison/comparison.md").read_text() == "mine"
