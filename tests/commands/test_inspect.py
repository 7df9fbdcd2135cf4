"""freeflow inspect, as a user runs it."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from freeflow_lightning.nets import SIZES
from places import ROOT
from teachers import public_sit

MINE = """
import torch
from freeflow_lightning.teachers import Teacher, VelocityTeacher

class Backwards(Teacher):
    "Noise - data instead of data - noise."
    sample_shape = (2,)
    def velocity(self, x, t, condition):
        return x - 3

class Flipped(Teacher):
    "t = 0 is the prior."
    sample_shape = (2,)
    def velocity(self, x, t, condition):
        s = (1 - t)[:, None]
        return 3 - (x - (1 - s) * 3) * (s - 0.01 * (1 - s)) / (s**2 + 0.01 * (1 - s) ** 2) 

class Net(torch.nn.Module):
    "No module that embeds the time by itself."
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
    def forward(self, x, t, condition):
        return self.layer(torch.cat([x, t[:, None]], 1))

class Nan(Teacher):
    sample_shape = (2,)
    def velocity(self, x, t, condition):
        return -x / t[:, None]
"""


@pytest.fixture
def inspect(freeflow, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: freeflow("inspect", *arguments)


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def row(out, name):
    """The cells of a table's row."""
    (line,) = [line for line in out.splitlines() if re.match(rf"│ {re.escape(name)} +│", line)]
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_the_embedded_teacher(inspect, told_parts):
    told = told_parts("commands.inspect")
    code, out, err = inspect(
        "embedded:digits", "--batch_size", 8, "--precision", "32", "--num_samples", 10, "--steps", 2
    )
    assert code == 0, err
    assert told == [3, "checks", "costs", "samples"]
    assert row(out, "sample_shape")[1] == "1 x 8 x 8"
    assert row(out, "classes")[1] == "10, null class 10"
    assert row(out, "convention")[1] == "sit"
    assert row(out, "parameters")[1] == "726,544"
    for check in (
        "shape",
        "inputs",
        "finite",
        "deterministic",
        "rows",
        "gradient",
        "null condition",
        "sign and time",
    ):
        assert row(out, check)[1] == "ok"
    assert row(out, "teacher") == ["teacher", "726,544", "3.5", "28"]
    assert row(out, "together")[2:] == ["5.5", "44"]
    assert row(out, "activations kept for the backward pass")[1] == "1.4 MiB"
    assert "batch 8, precision 32" in out
    width, height = Image.open("inspect.png").size
    assert width > 5 * height  # a row


def test_a_public_file_says_what_it_is_and_a_vae_is_asked_for(inspect):
    torch.save({"ema": public_sit.state_dict(learn_sigma=True), "opt": {"lr": 1e-4}}, "weights.pt")
    arguments = (
        "--teacher",
        "SiTTeacher",
        "--teacher.checkpoint",
        "weights.pt",
        "--teacher.num_heads",
        2,
    )
    code, out, err = inspect(*arguments, "--teacher.convention", "sit", "--steps", 1)
    assert code == 0, err
    for note in (
        "took 'ema' of the file",
        "trimmed the learned variance",
        "convention 'sit' as given",
    ):
        assert note in out
    assert row(out, "sign and time")[1] == "unclear"  # random weights
    assert "No picture: samples of shape [4, 8, 8], all finite" in out
    assert not Path("inspect.png").exists()


def test_a_precision_beside_a_config_takes_the_place_of_one_that_is_not_known(inspect):
    config = ["--config", ROOT / "configs/gaussian_mixture.yaml", "--trainer.precision", "64-true"]
    code, _, err = inspect(*config, "--no_samples")
    assert code == 1
    assert "precision '64-true' are not known: give --precision" in err
    code, out, err = inspect(*config, "--no_samples", "--precision", "bf16-mixed")
    assert code == 0, err
    assert "precision bf16-mixed" in out


def test_a_config_gives_batch_precision_and_averages(inspect):
    config = ["--config", ROOT / "configs/gaussian_mixture.yaml", "--data.batch_size", 32]
    code, out, err = inspect(*config, "--model.lr_decay_steps", 5, "--no_samples")
    assert code == 0, err
    assert "batch 32, precision 32" in out
    assert row(out, "moving averages (EMA)")
    assert row(out, "teacher")[2:] == ["1.75", "56"]  # unguided
    assert row(out, "null condition")[2] == "not needed without guidance"
    assert not Path("inspect.png").exists()
    _, out, _ = inspect(
        "--config", ROOT / "configs/gaussian_mixture.yaml", "--no_samples", "--averages", 0
    )
    assert "moving averages" not in out


def test_points_are_drawn_as_points_and_costs_without_a_network_say_why(inspect):
    arguments = (
        "--teacher",
        "GaussianMixtureTeacher",
        "--teacher.means",
        "[[2, 0], [-2, 1]]",
        "--teacher.std",
        "0.3",
    )
    code, out, err = inspect(*arguments, "--output", "points.png", "--steps", 4)
    assert code == 0, err
    assert "Costs: not known: GaussianMixtureTeacher has no network" in out
    assert Image.open("points.png").size[0] > 100


@pytest.mark.slow
def test_costs_without_weights(inspect):
    code, out, err = inspect("--size", "S/2", "--batch_size", 4)
    assert code == 0, err
    assert row(out, "student")[1] == "33,450,256"
    assert "batch 4, precision bf16-mixed" in out
    assert not Path("inspect.png").exists()


@pytest.mark.parametrize(
    ("name", "message", "check"),
    [
        ("Backwards", "the teacher's velocity has the wrong sign: ", "sign and time"),
        ("Flipped", "the teacher's velocity has the wrong time: ", "sign and time"),
        ("Nan", "Nan.velocity is not finite (NaN or infinite) at t = 0: ", "finite"),
    ],
)
def test_a_broken_teacher_is_an_error(inspect, mine, name, message, check):
    code, out, err = inspect("--teacher", f"mine.{name}")
    assert code == 1
    assert f"freeflow inspect: {message}" in err
    assert row(out, check)[1] == "BROKEN"
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one thing to inspect, got nothing"),
        (["embedded:digits", "--size", "S/2"], "got TEACHER and --size"),
        (["nowhere.pt"], "no teacher weights at nowhere.pt"),
        (["--config", "nowhere.yaml"], "no config at nowhere.yaml"),
        (["--config", ROOT / "configs/digits_teacher.yaml"], "distils no teacher"),
        (
            ["embedded:digits", "--model.alpha_ref", "1"],
            "--model.alpha_ref changes a config: give one with --config",
        ),
        (["--size", "S/2", "--image_size", "100"], "multiple of 16"),
        (["--size", "S/2", "--batch_size", "0"], "batch size of at least 1"),
        (["embedded:digits", "--num_samples", "0"], "at least one sample"),
        (["--precision", "8", "--size", "S/2"], "precision"),
        (["embedded:digits", "--sample"], "unknown option --sample"),
    ],
)
def test_errors_are_short(inspect, arguments, message):
    code, _, err = inspect(*arguments)
    assert code in (1, 2)
    assert message in err
    assert len(err.splitlines()) <= 3, err


def test_help(inspect):
    code, out, _ = inspect("--help")
    assert code == 0
    for line in (
        "freeflow inspect embedded:digits",
        "--config",
        "--no_samples",
        "without any weights",
    ):
        assert line in out
    assert "overrides" not in out


@pytest.mark.slow
def test_adapters_are_counted_as_such(freeflow, monkeypatch):
    """With two blocks of S/2."""
    monkeypatch.setitem(SIZES, "S", SIZES["S"] | {"depth": 2})
    size = ["inspect", "--size", "S/2", "--batch_size", 2]
    rows = {}
    for name, options in {
        "full": [],
        "one": ["--lora.networks", "[auxiliary]"],
        "both": ["--lora.rank", "8"],
    }.items():
        code, out, err = freeflow(*size, *options)
        assert code == 0, err
        rows[name] = {
            line.split()[1]: line.split()[3]
            for line in out.splitlines()
            if line.startswith(("│ student", "│ aux"))
        }
    assert rows["full"]["student"] == rows["one"]["student"] != rows["both"]["student"]
    assert len({row["auxiliary"] for row in rows.values()}) == 3
    code, _, err = freeflow("inspect", "--config", "any.yaml", "--lora.rank", "8")
    assert code == 1
    assert "change it with --model.lora" in err


def test_a_network_without_a_time_module_is_told_in_a_sentence(inspect, mine):
    teacher = "{class_path: GaussianMixtureTeacher, init_args: {means: [[1.0, 0.0]], std: 0.2}}"
    settings = (
        f"{{teacher: {teacher}, network: mine.Net, guidance_range: [1, 1], evaluation_guidance: 1}}"
    )
    (mine / "net.yaml").write_text(f"model: {settings}\n")
    code, out, err = inspect("--config", "net.yaml", "--num_samples", 2, "--steps", 1)
    assert code == 0, err
    told = "Costs: not known: expected one time-embedding module in Net, found 0: name it with time_module=..., "
    assert f"{told}for example one of ['layer']" in " ".join(out.split())
    assert "Subtypes" not in out


SCORE = """
import torch
from freeflow_lightning.nets import MLP
from freeflow_lightning.teachers import DDPMTeacher, Teacher

class Noise(DDPMTeacher):
    "An untrained network: what it makes of noise is 157 times too large."
    def __init__(self, t_max: float = 1.0):
        torch.manual_seed(0)
        super().__init__(MLP((6,), 8, 1), (6,), t_max=t_max)

class Negated(Teacher):
    sample_shape = (6,)
    def __init__(self):
        super().__init__()
        self.net = MLP((6,), 8, 1)
    def velocity(self, x, t, condition):
        return -self.net(x, 1000 * t)
    def backbone(self):
        return self.net
"""


def unwrapped(out):
    """The text of a table whose cells may be wrapped."""
    return re.sub(r"[│\s]+", " ", out)


def test_the_factor_on_the_students_step_and_the_spread_are_named(inspect, tmp_path, monkeypatch):
    (tmp_path / "scores.py").write_text(SCORE)
    monkeypatch.syspath_prepend(tmp_path)
    quick = ("--no_samples", "--batch_size", 4)
    code, out, err = inspect("--teacher", "scores.Noise", *quick, "--precision", "32")
    assert code == 0, err
    assert (
        row(out, "student's step")[1]
        == "student_lr / 157.4: at the prior u is the raw output times 157.4"
    )
    assert row(out, "spread at t = 1")[1] == "look"
    assert "t_max 0.97 of the teacher brings that to 32" in unwrapped(out)
    code, out, err = inspect("--teacher", "scores.Noise", "--teacher.t_max", "0.97", *quick)
    assert code == 0, err
    assert "student_lr / 32.33" in unwrapped(out)
    assert "bfloat16 rounds the raw output by 0.2 %, which is 6% of u at the prior" in unwrapped(
        out
    )
    code, out, err = inspect("embedded:digits", *quick)
    assert row(out, "student's step")[1] == "student_lr as it is: the network predicts a velocity"
    assert row(out, "spread at t = 1")[1] == "ok"


def test_a_backbone_in_another_convention_is_found(inspect, tmp_path, monkeypatch):
    (tmp_path / "scores.py").write_text(SCORE)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = inspect("--teacher", "scores.Negated", "--no_samples")
    assert code == 1
    assert row(out, "backbone")[1] == "BROKEN"
    assert (
        "velocity() is -backbone(x, 1000 t): the sign is the other and the time is 1000 t and not t"
        in err
    )
    assert len(err.splitlines()) == 2


def test_a_table_without_a_null_row_is_inspected_unguided(inspect):
    state = public_sit.state_dict() | {
        "y_embedder.embedding_table.weight": torch.randn(10, public_sit.WIDTH)
    }
    torch.save({"ema": state, "args": {"num_classes": 10}}, "weights.pt")
    arguments = (
        "--teacher",
        "SiTTeacher",
        "--teacher.checkpoint",
        "weights.pt",
        "--teacher.num_heads",
        2,
    )
    code, out, err = inspect(*arguments, "--teacher.convention", "sit", "--no_samples")
    assert code == 0, err
    assert row(out, "classes")[1] == "10, no null class: it cannot be guided"
    assert row(out, "null condition")[2] == "not needed without guidance"
