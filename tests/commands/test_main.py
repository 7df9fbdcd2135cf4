"""The command: what it answers when something is wrong, and what it draws."""

import errno
import importlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freeflow_lightning.commands import main as cli
from freeflow_lightning.commands.brief import brief
from places import ROOT

TEACHERS = """
import torch
from freeflow_lightning.teachers import Teacher

class Pull(Teacher):
    sample_shape = (2,)
    def velocity(self, x, t, condition):
        return -x

class Wide(Pull):
    def velocity(self, x, t, condition):
        return torch.zeros(len(x), 3)

class Silent(Teacher):
    sample_shape = (2,)

class Stumbles(Pull):
    def velocity(self, x, t, condition):
        return self.forgotten

class Late(Pull):
    def velocity(self, x, t, condition):
        if len(x) == 6:  # the prediction's rows of a batch of 8
            raise ValueError("too late")
        return -x

class Other:
    pass
"""
CONFIG = """
model:
  class_path: FreeFlowModule
  init_args:
    teacher: {class_path: my_teacher.Pull}
    network: {class_path: freeflow_lightning.nets.MLP, init_args: {sample_shape: [2], hidden_size: 8, depth: 1}}
    guidance_range: [1.0, 1.0]
    evaluation_guidance: 1.0
data: {class_path: PriorDataModule, init_args: {batch_size: 8, length: 2}}
trainer: {accelerator: cpu, max_steps: 2, enable_progress_bar: false, log_every_n_steps: 1}
"""


@pytest.fixture
def pull(tmp_path, monkeypatch):
    (tmp_path / "my_teacher.py").write_text(TEACHERS)
    (tmp_path / "pull.yaml").write_text(CONFIG)
    (tmp_path / "twice.yaml").write_text(f"{CONFIG}data: {{}}\n")
    average = "{class_path: StudentEMA, init_args: {decays: 0.9}}"
    (tmp_path / "decays.yaml").write_text(f"trainer: {{callbacks: [{average}]}}")
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "renamed.yaml").write_text("trainer: {gpus: 1}")
    (tmp_path / "near.yaml").write_text("trainer: {max_step: 1}")
    (tmp_path / "null.yaml").write_text("trainer: {callbacks: [null]}")
    (tmp_path / "file").touch()
    monkeypatch.delitem(sys.modules, "my_teacher", raising=False)
    yield tmp_path
    sys.modules.pop("my_teacher", None)


# What is wrong is said in a line or two


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--model.teacher", "my_teacher.Other"],
            "model.teacher: Import path my_teacher.Other does not correspond to a subclass",
        ),
        (
            ["--model.teacher", "my_teacher.Gone"],
            "model.teacher: module 'my_teacher' has no attribute 'Gone'",
        ),
        (
            ["--model.teacher", "gone.Gone"],
            "model.teacher: no module named 'gone': run in its folder, ",
        ),
        (
            ["--model.teacher", "my_teacher.Silent"],
            "my_teacher.Silent is abstract: define velocity in it",
        ),
        (
            ["--model.teacher", "my_teacher.Wide"],
            "Wide.velocity returned shape [2, 3] for states of shape [2, 2]",
        ),
        (
            ["--model.teacher", "my_teacher.Stumbles"],
            "Stumbles.velocity fails on two states of shape [2, 2]",
        ),
        (["--model", "Gone"], "model: no class named 'Gone': give its import path"),
        (["--model.studnet_lr", "1"], "option 'studnet_lr' is not accepted by"),
        (["--model.studnet_lr", "1"], "did you mean 'student_lr'?"),
        (
            ["--model.student_lr", "fast"],
            "model.student_lr: expected a number, got fast",
        ),
        (["--config", "decays.yaml"], "decays: expected a list, got 0.9: write [0.9]"),
        (["--data.length", "1.5"], "data.length: expected an integer, got 1.5"),
        (["--trainer.barebones", "true"], "expected trainer.barebones to be false, got true"),
        (
            ["--trainer.default_root_dir", "/dev/null/x"],
            "expected a folder that can be written to in --trainer.default_root_dir",
        ),
        (
            ["--trainer.log_every_n_steps", "-1"],
            "expected trainer.log_every_n_steps to be an integer of at least 0, got -1",
        ),
        (
            ["--model.network.sample_shape", "[3]"],
            "the student network fails on two states of shape [2, 2]",
        ),
        (
            ["--model.guidance_range", "[1.0, 2.0]"],
            "Pull has no null condition, so it cannot be guided: set guidance_range to [1, 1]",
        ),
        (
            ["--model.evaluation_guidance", "3.0"],
            "expected evaluation_guidance to be a finite number from 1.0 to 1.0, got 3.0",
        ),
        (["--data.length", "0"], "expected length to be an integer of at least 1, got 0"),
        (
            ["--trainer.max_stepz", "1"],
            "unknown option --trainer.max_stepz; did you mean '--trainer.max_steps'?",
        ),
        (["--trainer.callbacks+=Gone"], "trainer.callbacks: no class named 'Gone'"),
        (
            ["--trainer.callbacks+=AlphaSchedule", "--model.correction_fraction=0"],
            "AlphaSchedule has no effect here",
        ),
        (
            ["--trainer.callbacks+=StudentEMA", "--trainer.callbacks.decays=[2.0]"],
            "expected decay to be a finite number of at least 0 and below 1, got 2.0",
        ),
        (["--config", "gone.yaml"], "no config at gone.yaml, and none of that name in the package"),
        (
            ["--ckpt_path", "last"],
            "no run in runs/pull has written a checkpoint; leave it out to start anew",
        ),
        (["--ckpt_path", "gone.ckpt"], "--ckpt_path: no checkpoint at gone.ckpt"),
        (["--ckpt_path", "pull.yaml"], "--ckpt_path: pull.yaml is not a readable checkpoint"),
        (["--config", "twice.yaml"], "the key 'data' stands twice, in lines 9 and 11: remove one"),
        (["--trainer.accelerator", "gpu"], "No supported gpu backend found!"),
        (
            ["--trainer.profiler", "fast"],
            "it can only be one of ['simple', 'advanced', 'pytorch', 'xla']",
        ),
        (["--config", "empty.yaml"], "the config cannot be read: expected settings by name, got"),
        (["--config", "renamed.yaml"], "option 'trainer.gpus' is not accepted\n"),
        (
            ["--config", "near.yaml"],
            "option 'trainer.max_step' is not accepted; did you mean 'trainer.max_steps'?",
        ),
        (["--config", "null.yaml"], "trainer.callbacks: expected a Callback, got None"),
        (["--trainer.precision", "17"], "trainer.precision: expected one of 64, 32, 16, "),
        (
            ["--trainer.gradient_clip_val", "-1"],
            "gradient_clip_val to be a finite number of at least 0, got -1",
        ),
        (["--trainer.val_check_interval", "0"], "val_check_interval to be above 0, got 0"),
        (["--trainer.min_steps", "-1"], "trainer.min_steps to be an integer of at least 0, got -1"),
        (["--trainer.num_sanity_val_steps=-3"], "num_sanity_val_steps to be an integer of at"),
        (["--trainer.devices", "-1"], "should be an int > 0"),
        (["--ckpt_path="], "--ckpt_path is empty: give a value, or leave it out"),
        (["--seed_everything", "99999999999"], "99999999999 is not in bounds"),
        (["--ckpt_path", "best"], 'ckpt_path="best"'),
        (
            ["--data.val_samples=4", "--trainer.val_check_interval=500"],
            "`val_check_interval` (500) must be less than",
        ),
        (
            ["--trainer.accumulate_grad_batches", "0"],
            "accumulate_grad_batches to be an integer of at least 1, got 0",
        ),
        (
            ["--trainer.accumulate_grad_batches", "4"],
            "accumulate_grad_batches to divide the 2 batches of an epoch, got 4",
        ),
        (
            ["--trainer.check_val_every_n_epoch", "0"],
            "check_val_every_n_epoch to be an integer of at least 1, got 0",
        ),
        (["--model.compile", "fast"], "Invalid backend: 'fast'"),
        (["--model.betas", "0.99", "0.9"], "the smaller one first, got [0.99, 0.9]"),
        (
            ["--model.betas=0.9"],
            "expected betas to be two finite numbers of at least 0 and below 1",
        ),
        (["--model.student_lr", "-inf"], "student_lr to be a finite number above 0, got -inf"),
        (
            ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=file/a"],
            "ot a directory",
        ),
    ],
)
def test_fit_says_what_is_wrong(pull, freeflow, options, words):
    code, _, err = freeflow("fit", "--config", "pull.yaml", *options)
    assert code != 0
    assert words in err
    lines = [
        line
        for line in err.splitlines()
        if not line.startswith(("Seed", "GPU", "TPU", "INFO", "\x1b"))
    ]
    assert len(lines) <= 4
    assert "Traceback" not in err
    assert "usage:" not in err


def test_a_config_with_an_empty_checkpoint_is_refused(freeflow):
    config = (ROOT / "configs" / "digits.yaml").read_text()
    Path("mine.yaml").write_text(f"ckpt_path: ''\n{config}")
    code, _, err = freeflow("fit", "--config", "mine.yaml")
    assert code == 1
    assert "expected a checkpoint, a run's folder or 'last', got an empty word" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "unknown verb 'fly': expected one of fit, validate, inspect, "),
        (["fit"], "missing: teacher"),
        (["sample"], "expected who draws: a checkpoint for its student, or --teacher CLASS"),
        (
            ["sample", "--checkpoint", "gone.ckpt"],
            "no checkpoint at gone.ckpt: expected a .ckpt file",
        ),
        (
            ["sample", "--checkpoint", "x.ckpt", "--sed", "1"],
            "unknown option --sed; did you mean '--seed'?",
        ),
        (["sample", "x.ckpt", "--output", ""], "--output is empty: give a value, or leave it out"),
        (["sample", "x.ckpt", "--output= "], "--output is empty: give a value, or leave it out"),
        (["report", ""], "--run is empty: give a value"),
        (["fit", "--config", "digits", "--ckpt_path", ""], "--ckpt_path is empty: give a value"),
        (["fit", "--config", ""], "no config at ''"),
        (
            ["sample", "embedded:digits"],
            "a teacher draws by `freeflow sample --teacher SiTTeacher --teacher.checkpoint "
            "embedded:digits`",
        ),
        (["demo", "x.ckpt", "--port", "-1"], "expected --port from 1 to 65535, got -1"),
        (["sample", "x.ckpt", "--steps", "nan"], "steps: expected an integer, got nan"),
        (["sample", "x.ckpt", "--noise_share", "x"], "noise_share: expected a number, got x"),
        (["sample", "x.ckpt", "y=1.ckpt"], "expected options alone, --NAME VALUE, got y=1.ckpt"),
        (
            ["sample", "--checkpoint", "x.ckpt", "--num_samples", "many"],
            "num_samples: expected an integer, got many",
        ),
    ],
)
def test_every_verb_says_what_is_wrong(freeflow, arguments, words):
    code, _, err = freeflow(*arguments)
    assert code != 0
    assert words in err
    assert len(err.splitlines()) <= 4
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--model.guidance_interval", "0", "0.3"], "guidance_interval:\n    - 0.0\n    - 0.3\n"),
        (["--model.guidance_interval=0,0.3"], "guidance_interval:\n    - 0.0\n    - 0.3\n"),
        (
            ["--trainer.callbacks", "AlphaSchedule", "--trainer.callbacks.decay_steps", "inf"],
            "decay_steps: .inf\n",
        ),
        (
            ["--trainer.callbacks+=StudentEMA", "--trainer.callbacks.decays=0.5"],
            "decays:\n      - 0.5\n",
        ),
        (
            ["--trainer.callbacks", "StudentEMA", "--trainer.callbacks.decays", "0.5"],
            "decays:\n      - 0.5\n",
        ),
        (
            ["--trainer.callbacks+=StudentEMA", "--trainer.callbacks.decays", "0.5", "0.9"],
            "- 0.5\n      - 0.9\n",
        ),
        (["--trainer.max_steps", "1e4"], "max_steps: 10000\n"),
        (["--data.length=2.5e2"], "length: 250\n"),
        (
            ["--trainer.callbacks+=AlphaSchedule", "--trainer.callbacks.delay_steps=1e3"],
            "delay_steps: 1000\n",
        ),
        (["--config", "exponent.yaml"], "max_steps: 10000\n"),
        (["--config", "infinity.yaml"], "decay_steps: .inf\n"),
        (["--config", "quoted.yaml"], "decay_steps: 1000000.0\n"),
    ],
)
def test_lists_and_infinity_are_understood(pull, freeflow, options, found):
    for name, value in {"infinity": "Infinity", "quoted": "'1e6'"}.items():
        schedule = f"{{class_path: AlphaSchedule, init_args: {{decay_steps: {value}}}}}"
        (pull / f"{name}.yaml").write_text(f"trainer: {{callbacks: [{schedule}]}}")
    (pull / "exponent.yaml").write_text("trainer: {max_steps: 1e4}")
    code, out, err = freeflow("fit", "--config", "pull.yaml", *options, "--print_config")
    assert code == 0, err
    assert found in out


@pytest.mark.parametrize(
    ("error", "foreseen"),
    [
        (PermissionError(13, "Permission denied", "x"), True),
        (OSError(28, "No space left on device", "x"), True),
        (AttributeError("a bug"), False),
        (KeyError("a bug"), False),
        (TypeError("a bug"), False),
        (RuntimeError("somebody else's"), False),
        (ValueError("of a class of the config, before the first step"), True),
    ],
)
def test_refusals_are_short_and_bugs_keep_their_traceback(freeflow, monkeypatch, error, foreseen):
    def fail():
        raise error

    monkeypatch.setattr("freeflow_lightning.commands.sample.main", fail)
    if not foreseen:
        with pytest.raises(type(error)):
            freeflow("sample")
        return
    code, _, err = freeflow("sample")
    assert code == 1
    assert len(err.splitlines()) == 2
    assert "Errno" not in err


def test_a_bug_in_a_teacher_keeps_its_traceback(pull, freeflow):
    with pytest.raises(ValueError, match="too late"):
        freeflow("fit", "--config", "pull.yaml", "--model.teacher", "my_teacher.Late")


def test_nobody_foresaw_this_error(freeflow, monkeypatch):
    """A bug keeps its traceback: it is nothing the user did."""

    def stumble():
        torch.zeros(2) + torch.zeros(3)

    monkeypatch.setattr("freeflow_lightning.commands.sample.main", stumble)
    with pytest.raises(RuntimeError, match="size of tensor"):
        freeflow("sample")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "x"), OSError("unnamed")])
def test_the_traceback_is_there_for_who_wants_it(freeflow, monkeypatch, error):
    def stumble():
        raise error

    monkeypatch.setenv("FREEFLOW_TRACEBACK", "1")
    monkeypatch.setattr("freeflow_lightning.commands.sample.main", stumble)
    with pytest.raises(OSError, match=r"x|unnamed"):
        freeflow("sample")


def test_errors_of_the_package_are_told_from_others():
    def caught(function):
        try:
            function()
        except Exception as error:
            return cli.is_foreseen(error)

    from freeflow_lightning.flow import interpolate, solve

    assert caught(lambda: solve(lambda x, t, c: x, torch.zeros(1, 1), steps=0))
    assert not caught(
        lambda: solve(lambda x, t, c: torch.zeros(2) + torch.zeros(3), torch.zeros(1, 1), steps=1)
    )
    assert not caught(
        lambda: interpolate(torch.zeros(2, 2), torch.zeros(3, 2), torch.ones(2))
    )  # torch's error on our line
    assert not caught(lambda: int("x"))


def test_an_error_without_scaffolding_stays_as_it_is():
    assert brief("File does not exist: 'a b'") == "File does not exist: 'a b'"
    assert brief("Expected a <class 'NoneType'>") == "Expected a <class 'NoneType'>"


# Help


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["fit", "sample", "distil a teacher"]),
        ([], ["usage: freeflow VERB"]),
        (["--version"], ["freeflow-lightning 0."]),
        (["fit", "--help"], ["--config", "--ckpt_path", "--trainer.max_steps"]),
        (
            ["fit", "--config", "any.yaml", "--help"],
            ["--model.student_lr STUDENT_LR", "--data.batch_size"],
        ),
        (["fit", "--trainer.help"], ["--trainer.max_steps", "--trainer.sync_batchnorm"]),
        (["fit", "--model.help"], ["--model.student_lr STUDENT_LR", "gamma is uniform"]),
        (["fit", "--data.help"], ["--data.batch_size BATCH_SIZE"]),
        (["fit", "--model.teacher.help", "GaussianMixtureTeacher"], ["component means m_k"]),
        (
            ["fit", "--model.help", "FreeFlowModule"],
            ["guidance_range", "gamma is uniform on [low, high] per sample"],
        ),
        (
            ["fit", "--model.init_args.teacher.help", "GaussianMixtureTeacher"],
            ["means", "component means m_k"],
        ),
        (["sample", "--help"], ["--checkpoint", "--num_samples", "folder to write to"]),
    ],
)
def test_help(freeflow, arguments, words):
    code, out, _ = freeflow(*arguments)
    assert code == 0
    assert all(word in out for word in words)


def test_the_models_settings_come_before_the_trainers(freeflow):
    _, out, _ = freeflow("fit", "--help")
    places = [
        out.index(f"\n  {option} ")
        for option in ("--model.student_lr", "--data.batch_size", "--trainer.max_steps")
    ]
    assert places == sorted(places)
    assert "--trainer.sync_batchnorm" not in out


# A teacher of the current folder


def test_a_teacher_in_the_current_folder_is_found(pull, freeflow):
    code, _, err = freeflow("fit", "--config", "pull.yaml")
    assert code == 0, err
    (run,) = (pull / "runs/pull").iterdir()
    assert {"config.yaml", "metrics.csv"} <= {path.name for path in run.iterdir()}


# Samples


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.mark.slow
def test_a_training_checkpoint_is_sampled_without_lightning(checkpoint, tmp_path):
    code = "import sys; from freeflow_lightning.commands.main import main; main(); " + (
        "print({'lightning', 'torchmetrics', 'scipy', 'matplotlib', 'sympy'} & sys.modules.keys())"
    )
    words = ["sample", checkpoint, "--num_samples", "2", "--output", tmp_path / "samples"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stderr


def test_same_seed_same_pictures_whatever_the_batch_size(freeflow, checkpoint, tmp_path):
    for name, options in {
        "a": ["--batch_size", 3],
        "b": ["--batch_size", 64],
        "c": ["--seed", 1],
    }.items():
        code, out, err = freeflow(
            "sample", "--checkpoint", checkpoint, "--num_samples", 7, "--output", name, *options
        )
        assert code == 0, err
        assert out == f"7 samples at guidance 1.25 in {name}\n"  # the run's
    a, b, c = (pictures(tmp_path / name) for name in "abc")
    assert sorted(a) == [*(f"{i:06d}.png" for i in range(7)), "grid.png"]
    assert a == b
    assert all(a[name] != c[name] for name in a)
    assert len(set(a.values())) == 8
    assert Image.open(tmp_path / "a/000000.png").size == (4, 4)


def test_npz_is_what_adms_evaluator_reads(freeflow, checkpoint, tmp_path):
    assert (
        freeflow(
            "sample",
            "--checkpoint",
            checkpoint,
            "--num_samples",
            5,
            "--npz",
            "true",
            "--output",
            "npz",
        )[0]
        == 0
    )
    assert (
        freeflow("sample", "--checkpoint", checkpoint, "--num_samples", 5, "--output", "png")[0]
        == 0
    )
    array = np.load(tmp_path / "npz/samples.npz")["arr_0"]
    assert array.dtype == np.uint8
    assert array.shape == (5, 4, 4, 3)
    assert sorted(path.name for path in (tmp_path / "npz").iterdir()) == [
        "grid.png",
        "samples.json",
        "samples.npz",
    ]
    for i in range(5):
        assert np.array_equal(array[i], np.asarray(Image.open(tmp_path / f"png/{i:06d}.png")))


def test_classes_are_repeated_in_turn(freeflow, checkpoint, tmp_path):
    for name, classes in {"two": "[1,3]", "all": "[1,3,1,3]", "other": "[3,1]"}.items():
        options = ["--num_samples", 4, "--classes", classes, "--output", name]
        assert freeflow("sample", "--checkpoint", checkpoint, *options)[0] == 0
    assert pictures(tmp_path / "two") == pictures(tmp_path / "all")
    assert pictures(tmp_path / "two")["000000.png"] != pictures(tmp_path / "other")["000000.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "[7]"], "expected classes in 0 .. 4, got [7]"),
        (["--classes", "[-1]"], "expected classes in 0 .. 4, got [-1]"),
        (["--average", "ema_1"], "has no average 'ema_1': expected one of ['ema_0_9999', 'raw']"),
        (["--classes", "[5]"], "expected classes in 0 .. 4, got [5]"),
        (["--classes", "[]"], "--classes names no class: leave it out for drawn ones"),
        (["--device", "tpu"], "expected a device that is here, auto or cpu"),
        (["--device", "meta"], "got 'meta'"),
        (["--device", "cuda:99"], "got 'cuda:99'"),
        (["--output", f"{__file__}/samples"], "expected a folder at"),
        (["--num_samples", "0"], "at least one sample and batches of at least one, got 0"),
        (["--batch_size", "0"], "batches of at least one, got 64, 0 and 64"),
        (["--decode_batch_size", "-1"], "batches of at least one, got 64, 256 and -1"),
    ],
)
def test_sample_says_what_is_wrong(freeflow, checkpoint, options, words):
    code, _, err = freeflow("sample", "--checkpoint", checkpoint, *options)
    assert code == 1
    assert words in err
    assert len(err.splitlines()) == 2


def test_a_runs_folder_is_a_checkpoint_and_what_is_done_or_not_measured_is_said(
    pull, freeflow, said
):
    assert freeflow("fit", "--config", "pull.yaml")[0] == 0
    samples = ("--data.val_samples", 2)
    code, out, err = freeflow(
        "validate", "--config", "pull.yaml", "--ckpt_path", "runs/pull", *samples
    )
    assert code == 0, err
    assert "no figure was measured: trainer.callbacks has none that does" in out
    assert any(line.startswith("going on from step 2 of runs/pull/version_0/") for line in said())
    assert freeflow("validate", "--config", "pull.yaml", *samples)[0] == 0
    assert "no --ckpt_path: what is validated is the student before its first step" in said()
    assert freeflow("fit", "--config", "pull.yaml", "--ckpt_path", "runs/pull/version_0")[0] == 0
    assert "nothing is left to train: trainer.max_steps is 2" in said()
    code, out, err = freeflow("fit", "--config", "pull.yaml", "--trainer.max_steps", 0)
    assert "nothing was trained" in out


def test_classes_of_a_student_without_classes(pull, freeflow):
    assert freeflow("fit", "--config", "pull.yaml")[0] == 0
    (path,) = pull.glob("runs/pull/version_0/checkpoints/*.ckpt")
    code, _, err = freeflow("sample", "--checkpoint", path, "--classes", "[0]", "--guidance", 1.0)
    assert code == 1
    assert "this student has no classes; leave the option out" in err
    assert freeflow("sample", "--checkpoint", path, "--guidance", 1.0, "--num_samples", 9)[0] == 0
    assert np.load("samples/samples.npz")["arr_0"].shape == (9, 2)
    assert Path("samples/grid.png").is_file()


class Trap:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_a_checkpoint_with_code_is_refused_and_not_executed(freeflow, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"extra": Trap()}, tmp_path / "trap.ckpt")
    teacher = ["--model.teacher", "SiTTeacher", "--model.teacher.checkpoint", "embedded:digits"]
    for arguments in (
        ["sample", "--checkpoint", "trap.ckpt"],
        ["fit", *teacher, "--ckpt_path", "trap.ckpt"],
    ):
        code, _, err = freeflow(*arguments)
        assert code == 1
        assert "trap.ckpt is not a readable checkpoint" in err
        assert not (tmp_path / "executed").exists()
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    code, _, err = freeflow("sample", "--checkpoint", "half.ckpt")
    assert code == 1
    assert "half.ckpt is not a readable checkpoint" in err


def test_help_does_not_wait_for_torch():
    script = """
import sys
sys.modules['torch'] = None  # whoever imports it fails
from freeflow_lightning.commands.main import VERBS, main
for words in [["--help"], *([verb, "--help"] for verb in VERBS), ["configs"], ["completion", "bash"]]:
    sys.argv = ["freeflow", *words]
    main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "freeflow fit --config digits" in done.stdout
    assert done.stdout.count("show this help message and exit") == len(cli.VERBS)


@pytest.mark.parametrize(
    ("verb", "is_terminal", "said"),
    [("sample", True, "loading torch ...\n"), ("sample", False, ""), ("configs", True, "")],
)
def test_a_terminal_is_told_what_the_first_seconds_are_spent_on(
    freeflow, monkeypatch, verb, is_terminal, said
):
    module = importlib.import_module(cli.VERBS[verb][0])
    monkeypatch.setattr(module, "main", lambda: None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert freeflow(verb) == (0, "", said)


def test_the_package_has_its_names_and_no_others():
    import freeflow_lightning

    assert {
        name: getattr(freeflow_lightning, name).__name__.rpartition(".")[2]
        for name in dir(freeflow_lightning)
    } == {name: name for name in freeflow_lightning.__all__}
    with pytest.raises(AttributeError, match="no attribute 'FreeFlow'"):
        freeflow_lightning.FreeFlow  # noqa: B018


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_ctrl_c_is_one_line_in_every_verb(freeflow, monkeypatch, verb):
    def interrupted():
        raise KeyboardInterrupt

    def as_lightning_ends():
        try:
            interrupted()
        except KeyboardInterrupt:
            sys.exit(1)

    for main in (interrupted, as_lightning_ends):
        monkeypatch.setattr(importlib.import_module(cli.VERBS[verb][0]), "main", main)
        assert freeflow(verb) == (130, "", f"freeflow {verb}: interrupted\n")


def test_a_full_disk_anywhere_is_two_lines(freeflow, monkeypatch):
    def write():
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")

    monkeypatch.setattr(importlib.import_module(cli.VERBS["fit"][0]), "main", write)
    code, _, err = freeflow("fit")
    assert code == 1
    assert err.splitlines() == [
        "freeflow fit: No space left on device: 'metrics.csv'",
        "(FREEFLOW_TRACEBACK=1 shows where)",
    ]


def test_what_may_not_be_written_is_told_with_the_way_out(freeflow, monkeypatch):
    def write():
        raise PermissionError(errno.EACCES, "Permission denied", "samples")

    monkeypatch.setattr(importlib.import_module(cli.VERBS["sample"][0]), "main", write)
    assert freeflow("sample")[2].startswith(
        "freeflow sample: Permission denied: 'samples': choose a place that you may read and write"
    )


def test_whoever_meets_a_lost_reader_the_exit_code_is_the_pipes(freeflow, monkeypatch):
    def draw():
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904 (as rich does)

    monkeypatch.setattr(importlib.import_module(cli.VERBS["fit"][0]), "main", draw)
    assert freeflow("fit") == (141, "", "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("configs <&- >&-", 0, ""),
        ("configs 2>&- >/dev/null", 0, ""),
        (
            "--version >/dev/full",
            1,
            "freeflow: the output cannot be written: No space left on device\n",
        ),
    ],
)
def test_output_that_leads_nowhere(words, code, told):
    command = f"exec {shlex.quote(sys.executable)} -m freeflow_lightning.commands.main {words}"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, told)


def test_a_current_folder_that_was_removed_is_named(freeflow, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = freeflow("configs")
    assert (code, out) == (1, "")
    assert err.startswith("freeflow configs: the current folder has been removed: change to")


@pytest.mark.parametrize("words", [["--help"], ["sample", "--help"], ["configs"]])
def test_a_reader_that_leaves_early_ends_the_command_in_silence(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "freeflow_lightning.commands.main", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
