"""What tests of commands and of Lightning's loggers share."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported, and for the processes that tests start

import io
import logging
import sys

import pytest

LIGHTNING = logging.getLogger("lightning.pytorch")


def pytest_collection_finish():
    """In the processes that run tests; the one that hands them out needs neither library, and starts at once."""
    import lightning.pytorch  # noqa: F401 (its log handler keeps the stream that it finds: not one that a test captures)
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def heard():
    """Lightning's loggers say what they do, whatever a command before has quieted."""
    LIGHTNING.setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory):
    """A module that a test has written is its own: another test's of that name is imported anew."""
    before, mine = set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(mine):
            del sys.modules[name]


@pytest.fixture
def said(caplog, monkeypatch):
    """What Lightning's loggers have been told, line by line, so far: said() -> [line, ...]."""
    monkeypatch.setattr(LIGHTNING, "propagate", False)  # which would tell caplog twice
    LIGHTNING.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, LIGHTNING.name):
        yield lambda: [record.getMessage() for record in caplog.records]
    LIGHTNING.removeHandler(caplog.handler)


@pytest.fixture
def freeflow(monkeypatch, capsys):
    """Run the command in this process: freeflow("fit", "--config", ...) -> (exit code, stdout, stderr)."""
    from freeflow_lightning.commands import main as cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["freeflow", *map(str, arguments)])
        monkeypatch.setattr("sys.path", list(__import__("sys").path))
        capsys.readouterr()
        code, level = 0, LIGHTNING.level
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            LIGHTNING.setLevel(level)  # a command that quiets it ends with its process
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def told_parts(monkeypatch):
    """What a verb's module tells its bar, [the number of parts, the name of each]: told_parts("commands.bench")."""

    def watch(module):
        told = []
        monkeypatch.setattr(
            f"freeflow_lightning.{module}.parts_of",
            lambda bar, total: told.append(total) or told.append,
        )
        return told

    return watch


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A student of pictures [3, 4, 4] in five classes, trained for two steps; guidance 1.25."""
    from freeflow_lightning.commands import main as cli
    from freeflow_lightning.teachers import SiTVelocity, save_sit
    from nets.random_weights import tiny_sit

    folder = tmp_path_factory.mktemp("trained")
    save_sit(folder / "sit.safetensors", SiTVelocity(tiny_sit()))
    options = {
        "--model.class_path": "FreeFlowModule",
        "--model.init_args.evaluation_guidance": 1.25,
        "--model.init_args.teacher": "SiTTeacher",
        "--model.init_args.teacher.checkpoint": folder / "sit.safetensors",
        "--data": "PriorDataModule",
        "--data.batch_size": 4,
        "--data.length": 2,
        "--trainer.accelerator": "cpu",
        "--trainer.max_steps": 2,
        "--trainer.enable_progress_bar": "false",
        "--trainer.callbacks+": "StudentEMA",
        "--trainer.default_root_dir": folder,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(
            sys,
            "argv",
            ["freeflow", "fit", *(f"{name}={value}" for name, value in options.items())],
        )
        patch.setattr(sys, "stdout", io.StringIO())
        cli.main()
    (path,) = folder.glob("runs/default/version_0/checkpoints/*.ckpt")
    return path
