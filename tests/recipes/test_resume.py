"""A run that was interrupted ends where the uninterrupted one does, bit for bit."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed import checkpoint

from freeflow_lightning.commands.resumed_checkpoint import read_step
from freeflow_lightning.training.optimizer import adam, apply_changes, settings_of
from freeflow_lightning.training.run_loggers import read_metrics
from tiny import fit, module, same

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


def assert_same_run(a: Path, b: Path, step: int = 20) -> None:
    """Bit for bit."""
    ours, theirs = last(a), last(b)
    assert ours["global_step"] == theirs["global_step"] == step
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters"):
        assert same(ours[part], theirs[part]), part
    assert any(key.startswith("averages.ema_0_9.") for key in ours["state_dict"])
    assert rows(a) == rows(b)
    steps = [row["step"] for row in rows(a) if "gradient/student" in row]
    assert steps == list(range(step))


@pytest.mark.parametrize(("stops", "accumulate"), [((10, 8), 1), ((5, 6), 2)])
@pytest.mark.slow
def test_a_resumed_run_is_the_run(freeflow, tmp_path, monkeypatch, stops, accumulate):
    """Interrupted in the middle of an epoch, at its end, and with accumulated batches (8 batches are an epoch)."""
    runs = {"straight": [20]} | {f"stopped at {stop}": [stop, 20] for stop in stops}
    for name, steps in runs.items():
        config = configure(tmp_path / name, LAST % 1)
        monkeypatch.chdir(tmp_path / name)
        for k, n in enumerate(steps):
            again = ["--ckpt_path", "last"] if k else []
            limits = ["--trainer.max_steps", n, "--trainer.accumulate_grad_batches", accumulate]
            code, _, err = freeflow("fit", "--config", config.name, *limits, *again)
            assert code == 0, err
    for stop in stops:
        assert_same_run(tmp_path / "straight", tmp_path / f"stopped at {stop}")


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
    path = (
        run_of(tmp_path) / "checkpoints/last.ckpt"
    )  # a path: Lightning reads the settings of a file and forces them on
    options = ["--trainer.max_steps", 3, "--model.alpha_ref", 0.7, "--ckpt_path", path]
    assert freeflow("fit", "--config", config.name, *options)[0] == 0
    assert last(tmp_path)["hyper_parameters"]["init_args"]["alpha_ref"] == 0.7


def test_changed_rates_and_betas_are_the_restored_optimizers(tmp_path, said):
    keep = ModelCheckpoint(tmp_path, "two", enable_version_counter=False)
    fit(module(), keep, max_steps=2, enable_checkpointing=True)
    changed = {"student_lr": 3e-4, "betas": (0.5, 0.8), "eps": 1e-5}
    made = fit(module(**changed), max_steps=3, ckpt_path=tmp_path / "two.ckpt")
    student, auxiliary = made.optimizers[0].param_groups
    assert (student["lr"], student["betas"], student["eps"]) == (3e-4, (0.5, 0.8), 1e-5)
    assert (auxiliary["lr"], auxiliary["betas"], auxiliary["eps"]) == (1e-2, (0.5, 0.8), 1e-5)
    assert float(made.optimizers[0].state[student["params"][0]]["step"]) == 3
    assert "going on with lr 0.0003 (it was 0.01) of student" in said()
    assert len([line for line in said() if line.startswith("going on with")]) == 5


def test_a_checkpoint_that_does_not_say_its_rates_gives_way_too(tmp_path):
    keep = ModelCheckpoint(tmp_path, "two", enable_version_counter=False)
    fit(module(), keep, max_steps=2, enable_checkpointing=True)
    older = torch.load(tmp_path / "two.ckpt", weights_only=True)
    del older["optimizer_settings"]
    torch.save(older, tmp_path / "older.ckpt")
    made = fit(module(auxiliary_lr=5e-3), max_steps=3, ckpt_path=tmp_path / "older.ckpt")
    assert [group["lr"] for group in made.optimizers[0].param_groups] == [1e-2, 5e-3]


class Halve(Callback):
    """Moves a rate by hand, once."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        if trainer.global_step == 1:
            trainer.optimizers[0].param_groups[0]["lr"] /= 2


def test_a_rate_that_a_callback_has_moved_is_restored(tmp_path):
    keep = ModelCheckpoint(tmp_path, "two", enable_version_counter=False)
    fit(module(), Halve(), keep, max_steps=2, enable_checkpointing=True)
    rates = [
        fit(module(student_lr=rate), max_steps=3, ckpt_path=tmp_path / "two.ckpt")
        .optimizers[0]
        .param_groups[0]["lr"]
        for rate in (1e-2, 2e-2)
    ]
    assert rates == [5e-3, 1e-2]  # as it was, and in proportion to the changed one


def test_a_schedule_goes_on_from_a_changed_rate():
    def run(rate, steps, state=None):
        optimizer = adam([{"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        now = settings_of(optimizer)
        if state:
            optimizer.load_state_dict(state[0])
            schedule.load_state_dict(state[1])
            apply_changes(optimizer, state[2], now, [schedule])
        for _ in range(steps):
            optimizer.step()
            schedule.step()
        return optimizer.param_groups[0]["lr"], (optimizer.state_dict(), schedule.state_dict(), now)

    _, state = run(0.6, 2)
    assert run(0.3, 0, state)[0] == pytest.approx(0.1)
    assert run(0.3, 1, state)[0] == pytest.approx(0.3 / 4)
    assert run(0.6, 1, state)[0] == run(0.6, 3)[0]


def test_the_first_config_is_kept_and_changes_are_said(freeflow, tmp_path, said):
    config = configure(tmp_path, LAST % 1)
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 2)[0] == 0
    first = (run_of(tmp_path) / "config.yaml").read_text()
    options = ["--trainer.max_steps", 3, "--model.student_lr", 0.5, "--model.alpha_ref", 0.7]
    assert freeflow("fit", "--config", config.name, *options, "--ckpt_path", "last")[0] == 0
    assert (run_of(tmp_path) / "config.yaml").read_text() == first
    again = yaml.safe_load((run_of(tmp_path) / "config_from_step_2.yaml").read_text())
    assert again["model"]["init_args"]["student_lr"] == 0.5
    changed = {line for line in said() if line.startswith("changed: ")}
    assert changed == {
        "changed: trainer.max_steps: 2 -> 3",
        "changed: model.student_lr: 0.01 -> 0.5",
        "changed: model.alpha_ref: 0.3 -> 0.7",
    }
    assert last(tmp_path)["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5
    assert any(
        line.startswith("going on from step 2 of runs/mixture/version_0/checkpoints/last.ckpt")
        for line in said()
    )


def test_weights_alone_are_refused_in_two_lines(freeflow, tmp_path):
    config = configure(tmp_path, LAST % 1)
    torch.save({"global_step": 2, "state_dict": {}, "loops": {}}, tmp_path / "weights.ckpt")
    code, _, err = freeflow("fit", "--config", config.name, "--ckpt_path", "weights.ckpt")
    assert code == 1
    assert "training cannot go on from weights.ckpt (weights without optimizer_states" in err
    assert len(err.strip().splitlines()) == 2


def test_a_checkpoint_from_elsewhere_starts_a_new_run(freeflow, tmp_path, said):
    config = configure(tmp_path, LAST % 1)
    assert freeflow("fit", "--config", config.name, "--trainer.max_steps", 2)[0] == 0
    moved = (run_of(tmp_path) / "checkpoints/last.ckpt").rename(tmp_path / "moved.ckpt")
    options = ["--trainer.max_steps", 3, "--model.alpha_ref", 0.7, "--ckpt_path", moved]
    assert freeflow("fit", "--config", config.name, *options)[0] == 0
    assert [line for line in said() if line.startswith("changed")] == [
        "changed: model.alpha_ref: 0.3 -> 0.7"
    ]
    assert sorted(path.name for path in (tmp_path / "runs/mixture").iterdir()) == [
        "version_0",
        "version_1",
    ]


def test_the_step_of_files_and_of_sharded_folders(tmp_path):
    torch.save({"global_step": 7, "state_dict": {}}, tmp_path / "a.ckpt")
    weights = {"state_dict": {"student.weight": torch.zeros(1)}}
    checkpoint.save(weights, checkpoint_id=tmp_path / "sharded.ckpt", no_dist=True)
    torch.save({"global_step": 8}, tmp_path / "sharded.ckpt" / "meta.pt")
    assert [read_step(str(tmp_path / name)) for name in ("a.ckpt", "sharded.ckpt")] == [7, 8]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is not a readable checkpoint"):
        read_step(str(tmp_path / "empty"))
