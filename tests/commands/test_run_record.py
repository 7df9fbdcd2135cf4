"""One run, one folder, whatever the logger; seeds; the folder of all runs."""

import os
import sys
from pathlib import Path

import pytest
import yaml

import forks
from freeflow_lightning.training.folder_lock import lock_folder
from freeflow_lightning.training.run_loggers import MetricsCSV, read_metrics
from recipes.test_resume import LAST, configure

LOGGER = """
import json
from lightning.pytorch.loggers.logger import Logger

class Mine(Logger):
    name, version, save_dir = "project", "v", "."

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, params):
        print("told", json.dumps(params["model"]["init_args"]["student_lr"]))

    def log_image(self, key, images, step=None):
        print("shown", key, step)
"""
GRID = """
    - {class_path: SampleGrid, init_args: {count: 3, steps: 2}}
"""


@pytest.mark.parametrize("logger", ["false", "mylog.Mine", "CSVLogger"])
def test_with_any_logger_there_is_one_folder_a_run(freeflow, tmp_path, monkeypatch, logger):
    monkeypatch.delitem(sys.modules, "mylog", raising=False)
    (tmp_path / "mylog.py").write_text(LOGGER)
    config = configure(tmp_path, LAST % 1 + GRID)
    before = set(os.listdir())
    options = [
        "--trainer.logger",
        logger,
        *(["--trainer.logger.save_dir", "logs"] if logger == "CSVLogger" else []),
    ]
    for rate in (0.01, 0.02):
        code, out, err = freeflow(
            "fit",
            "--config",
            config.name,
            "--trainer.max_steps",
            2,
            "--model.student_lr",
            rate,
            *options,
        )
        assert code == 0, err
        assert [line for line in out.splitlines() if line.startswith(("told", "shown"))] == (
            [f"told {rate}", "shown samples 0"] if logger == "mylog.Mine" else []
        )
    assert set(os.listdir()) - before <= {"runs", "cache", "__pycache__", "logs"}
    assert sorted(os.listdir("runs/mixture")) == ["version_0", "version_1"]
    for n, rate in enumerate((0.01, 0.02)):
        run = tmp_path / f"runs/mixture/version_{n}"
        assert (
            yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["student_lr"]
            == rate
        )
        assert [row["step"] for row in read_metrics(run / "metrics.csv")] == [0, 1]
        assert (run / "checkpoints/last.ckpt").is_file()
        assert (run / "samples/step_0000000.png").is_file()


def test_the_root_folder_moves_the_runs_and_the_seed_is_everythings(freeflow, tmp_path):
    config = configure(tmp_path, LAST % 1)
    options = ["--trainer.default_root_dir", "elsewhere", "--trainer.max_steps"]
    code, _, err = freeflow("fit", "--config", config.name, "--seed_everything", 5, *options, 1)
    assert code == 0, err
    assert not (tmp_path / "runs").exists()
    written = yaml.safe_load(
        (tmp_path / "elsewhere/runs/mixture/version_0/config.yaml").read_text()
    )
    assert (written["seed_everything"], written["data"]["init_args"]["seed"]) == (5, 5)
    code, _, err = freeflow(
        "fit", "--config", config.name, "--data.seed", 3, *options, 2, "--ckpt_path", "last"
    )
    assert code == 0, err
    written = yaml.safe_load(
        (tmp_path / "elsewhere/runs/mixture/version_0/config_from_step_1.yaml").read_text()
    )
    assert (written["seed_everything"], written["data"]["init_args"]["seed"]) == (0, 3)


def test_a_run_that_runs_is_not_gone_on_with(freeflow, tmp_path):
    config = configure(tmp_path, LAST % 1)
    run = tmp_path / "runs/mixture/version_0"
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 1)[0] == 0
    again = ["fit", "--config", config.name, "--trainer.max_steps", 2, "--ckpt_path", "last"]
    with lock_folder(run, "fit"):
        before = (run / "metrics.csv").read_bytes()
        code, _, err = freeflow(*again)
        assert code == 1
        assert f"another process is writing to {run.relative_to(tmp_path)}: wait for its end" in err
        assert (run / "metrics.csv").read_bytes() == before
    assert freeflow(*again)[0] == 0


def test_a_new_runs_folder_is_locked_until_it_ends(tmp_path):
    table = MetricsCSV(tmp_path, "run")
    folder = Path(table.log_dir)
    with pytest.raises(ValueError, match="another process is writing"), lock_folder(folder, "fit"):
        pass
    table.finalize("success")
    with lock_folder(folder, "fit"):
        pass
    killed = MetricsCSV(tmp_path, "run")
    folder = Path(killed.log_dir)
    del killed
    with lock_folder(folder, "fit"):
        pass


def test_a_trial_run_leaves_nothing(freeflow, tmp_path):
    config = configure(tmp_path, GRID)
    assert freeflow("fit", "--config", config.name, "--trainer.fast_dev_run", "true")[0] == 0
    assert not (tmp_path / "runs").exists()
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.slow
def test_runs_that_start_at_once_and_the_processes_of_one_run(tmp_path):
    """Two runs, each of two processes, started together: two folders with a table of their own rows."""
    config = configure(tmp_path, LAST % 1)
    words = ["fit", "--config", config.name, "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    words += ["--trainer.limit_val_batches", 0, "--trainer.max_steps"]
    started = [
        forks.start(forks.freeflow_script, *words, steps, said=f"said_{steps}") for steps in (2, 3)
    ]
    assert forks.end(*started) == [0, 0]
    assert sorted(os.listdir("runs/mixture")) == ["version_0", "version_1"]
    lengths = [
        len(read_metrics(tmp_path / f"runs/mixture/version_{n}/metrics.csv")) for n in (0, 1)
    ]
    assert sorted(lengths) == [2, 3]
