"""A run that was interrupted ends where the uninterrupted one does, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from freeflow_lightning.commands.fit import resume_step
from freeflow_lightning.run_folder import read_metrics
from tiny import same

CONFIG = """
seed_everything: 0
model:
  class_path: FreeFlowModule
  init_args:
    teacher:
      class_path: GaussianMixtureTeacher
      init_args: {means: [[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0]], std: 0.4, labels: [0, 1, 1]}
    network:
        class_path: freeflow_lightning.nets.MLP
        init_args: {sample_shape: [2], hidden_size: 16, depth: 1, num_classes: 2}
    student_lr: 1.0e-2
    auxiliary_lr: 1.0e-2
data: {class_path: PriorDataModule, init_args: {batch_size: 8, length: 8, val_samples: 6}}
trainer:
  accelerator: cpu
  max_steps: 20
  log_every_n_steps: 1
  enable_progress_bar: false
  callbacks:
    - {class_path: ConfidentRegionWarmup, init_args: {steps: 15}}
    - {class_path: AlphaSchedule, init_args: {delay_steps: 4, warmup_steps: 10}}
    - {class_path: StudentEMA, init_args: {decays: [0.9, 0.5]}}
    - class_path: PeriodicFID
      init_args:
        metric: {class_path: FrechetDistance, init_args: {features: {class_path: FlatFeatures, init_args: {num_features: 2}}}}
        reference_samples: 20
        steps: 2
    - {class_path: TrajectoryError, init_args: {count: 4, points: 2, steps: 4}}
    - {class_path: HealthMonitor, init_args: {count: 4, steps: 2}}
"""
LAST = """
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {filename: last, every_n_train_steps: %d, enable_version_counter: false}
"""
BEST = """
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {filename: "best-{step}", monitor: fid/student, mode: min, save_top_k: -1}
"""


def configure(folder: Path, callbacks: str, name: str = "mixture") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(CONFIG + callbacks)
    return path


def run_of(folder: Path, name: str = "mixture") -> Path:
    (version,) = (folder / "runs" / name).iterdir()  # one: a resumed run goes on in its own folder
    return version


def rows(folder: Path) -> list[dict[str, float]]:
    """metrics.csv without what depends on the clock."""
    found = read_metrics(run_of(folder) / "metrics.csv")
    return [{name: x for name, x in row.items() if not name.startswith("speed/")} for row in found]


def last(folder: Path) -> dict:
    return torch.load(run_of(folder) / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_run(a: Path, b: Path, step: int = 20, *, killed_after: Collection[int] = ()) -> None:
    """Bit for bit.

    A killed run may lack figures, but has no others: those of the validations that it died in, and of the step at whose end
    it died after its checkpoint and before its line of figures (`killed_after` so many steps), which Lightning writes in
    this order.
    """
    ours, theirs = last(a), last(b)
    assert ours["global_step"] == theirs["global_step"] == step
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters"):
        assert same(ours[part], theirs[part]), part
    assert any(key.startswith("averages.ema_0_9.") for key in ours["state_dict"])
    there, steps = rows(b), [row["step"] for row in rows(a) if "gradient/student" in row]
    may_lack = lambda row: bool(killed_after) and ("gradient/student" not in row or row["step"] + 1 in killed_after)
    assert [row for row in rows(a) if row in there or not may_lack(row)] == there
    assert steps == list(range(step))


@pytest.mark.parametrize(("stop", "accumulate"), [(10, 1), (8, 1), (5, 2), (6, 2)])
@pytest.mark.slow
def test_a_resumed_run_is_the_run(freeflow, tmp_path, monkeypatch, stop, accumulate):
    """Interrupted in the middle of an epoch, at its end, and with accumulated batches (8 batches are an epoch)."""
    for name, steps in (("straight", [20]), ("resumed", [stop, 20])):
        config = configure(tmp_path / name, LAST % 1)
        monkeypatch.chdir(tmp_path / name)
        for k, n in enumerate(steps):
            again = ["--ckpt_path", "last"] if k else []
            limits = ["--trainer.max_steps", n, "--trainer.accumulate_grad_batches", accumulate]
            code, _, err = freeflow("fit", "--config", config.name, *limits, *again)
            assert code == 0, err
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.slow
def test_a_run_resumed_from_its_validation_is_the_run(freeflow, tmp_path, monkeypatch):
    """The best checkpoint is written inside the validation at the end of an epoch."""
    config = configure(tmp_path / "straight", BEST + LAST % 20)
    monkeypatch.chdir(tmp_path / "straight")
    assert freeflow("fit", "--config", config.name)[0] == 0
    (tmp_path / "resumed").mkdir()
    configure(tmp_path / "resumed", BEST + LAST % 20)
    monkeypatch.chdir(tmp_path / "resumed")
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 10)[0] == 0
    best = run_of(tmp_path / "resumed") / "checkpoints" / "best-step=8.ckpt"
    assert torch.load(best, weights_only=True)["global_step"] == 8
    code, _, err = freeflow("fit", "--config", config.name, "--ckpt_path", best)
    assert code == 0, err
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


def test_the_config_decides_on_resuming_not_the_checkpoint(freeflow, tmp_path):
    config = configure(tmp_path, LAST % 1)
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 2)[0] == 0
    path = run_of(tmp_path) / "checkpoints/last.ckpt"  # a path: Lightning reads the settings of a file and forces them on
    options = ["--trainer.max_steps", 3, "--model.alpha_ref", 0.7, "--ckpt_path", path]
    assert freeflow("fit", "--config", config.name, *options)[0] == 0
    assert last(tmp_path)["hyper_parameters"]["init_args"]["alpha_ref"] == 0.7


def test_a_checkpoint_from_elsewhere_starts_a_new_run(freeflow, tmp_path):
    config = configure(tmp_path, LAST % 1)
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 2)[0] == 0
    moved = (run_of(tmp_path) / "checkpoints/last.ckpt").rename(tmp_path / "moved.ckpt")
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 3, "--ckpt_path", moved)[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs/mixture").iterdir()) == ["version_0", "version_1"]


@pytest.mark.slow
def test_a_killed_run_loses_no_checkpoint_and_ends_where_the_straight_one_does(tmp_path):
    """SIGKILL at random moments, checkpoints at every second step, the temporary folder on another disk where there is one."""
    other_disk = Path("/dev/shm")
    environment = os.environ | ({"TMPDIR": str(other_disk)} if other_disk.is_dir() else {})

    def start(folder, *more):
        command = [sys.executable, "-c", "from freeflow_lightning.cli import main; main()", "fit", "--config", "mixture.yaml"]
        return subprocess.Popen([*command, "--trainer.max_steps", "400", *more], cwd=folder, env=environment)

    configure(tmp_path / "straight", LAST % 2)
    configure(tmp_path / "killed", LAST % 2)
    straight = start(tmp_path / "straight")
    assert straight.wait(300) == 0
    chance = random.Random(0)
    checkpoint, kills, reached = tmp_path / "killed/runs/mixture/version_0/checkpoints/last.ckpt", 0, []
    for _ in range(3):
        resume = ["--ckpt_path", "last"] if checkpoint.exists() else []
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(tmp_path / "killed", *resume)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                time.sleep(chance.uniform(0.02, 0.5))
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        for path in (tmp_path / "killed").rglob("*.ckpt"):
            reached.append(torch.load(path, weights_only=True)["global_step"])
    assert kills >= 2
    assert reached == sorted(reached)
    assert start(tmp_path / "killed", "--ckpt_path", "last").wait(300) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "killed", 400, killed_after=reached)


def test_the_step_of_files_and_of_sharded_folders(tmp_path):
    torch.save({"global_step": 7}, tmp_path / "a.ckpt")
    (tmp_path / "sharded.ckpt").mkdir()
    torch.save({"global_step": 8}, tmp_path / "sharded.ckpt" / "meta.pt")
    assert [resume_step(str(tmp_path / name)) for name in ("a.ckpt", "sharded.ckpt")] == [7, 8]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is not a readable checkpoint"):
        resume_step(str(tmp_path / "empty"))
