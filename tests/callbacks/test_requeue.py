"""A SLURM job that is told to stop saves, requeues itself and ends where an uninterrupted one does."""

import os
import re
import stat

import pytest
import torch

from freeflow_lightning.callbacks import Requeue
from places import ROOT
from recipes.test_resume import assert_same_run, configure, last, run_of

SENDER = """
import os, signal
from lightning.pytorch import Callback

class Sender(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7 and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
"""
CALLBACKS = """
    - class_path: sender.Sender
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {filename: last, every_n_train_steps: %d, enable_version_counter: false}
"""
SLURM = {
    "NTASKS": "1",
    "JOB_NAME": "train",
    "JOB_ID": "77",
    "PROCID": "0",
    "LOCALID": "0",
    "NODEID": "0",
    "NTASKS_PER_NODE": "1",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """SLURM's variables, and a scontrol that writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path / "asked"


@pytest.mark.slow
def test_a_requeued_job_is_the_uninterrupted_one(freeflow, tmp_path, monkeypatch, slurm):
    for name in ("straight", "requeued"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sender.py").write_text(
            SENDER.replace("== 7", "== -1") if name == "straight" else SENDER
        )
    config = configure(tmp_path / "straight", CALLBACKS % 20)
    monkeypatch.chdir(tmp_path / "straight")
    monkeypatch.delitem(__import__("sys").modules, "sender", raising=False)
    assert freeflow("fit", "--config", config.name)[0] == 0
    assert not slurm.exists()

    configure(tmp_path / "requeued", CALLBACKS % 20)
    monkeypatch.chdir(tmp_path / "requeued")
    monkeypatch.delitem(__import__("sys").modules, "sender", raising=False)
    code, _, err = freeflow("fit", "--config", config.name)
    assert code == 0, err
    assert slurm.read_text() == "requeue 77\n"
    saved = run_of(tmp_path / "requeued") / "checkpoints" / "requeue.ckpt"
    assert torch.load(saved, weights_only=True)["global_step"] == 10  # the next look after step 7
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    code, _, err = freeflow("fit", "--config", config.name)
    assert code == 0, err
    assert last(tmp_path / "requeued")["global_step"] == 20
    assert_same_run(tmp_path / "straight", tmp_path / "requeued")


def test_another_job_starts_anew(freeflow, tmp_path, monkeypatch, slurm):
    (tmp_path / "sender.py").write_text(SENDER.replace("== 7", "== -1"))
    monkeypatch.delitem(__import__("sys").modules, "sender", raising=False)
    config = configure(tmp_path, CALLBACKS % 2)
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 2)[0] == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 2)[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs" / "mixture").iterdir()) == [
        "version_0",
        "version_1",
    ]


def test_it_looks_now_and_then():
    with pytest.raises(ValueError, match="every_n_steps to be an integer of at least 1, got 0"):
        Requeue(0)


def test_the_example_names_the_signal_that_is_waited_for():
    text = (ROOT / "configs" / "slurm.sbatch").read_text()
    assert "--signal=SIGUSR1@" in text
    assert re.search(r"^srun freeflow fit --config", text, re.M)
