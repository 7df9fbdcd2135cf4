"""However a run ends, `last` holds its last step, and the run goes on from it as if it had never ended."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.training.finite import NonFiniteError
from freeflow_lightning.training.last_step import LastStep
from freeflow_lightning.training.run_loggers import read_metrics
from freeflow_lightning.training.unfinished_validation import is_validation_pending
from tiny import data, fit, module, same

STEPS = 20
LENGTH = 8  # batches of an epoch, each of which ends with a validation


class Figure(Callback):
    """A figure of each validation that depends on the weights and on the epoch."""

    def on_validation_epoch_end(self, trainer, pl_module):
        weight = next(pl_module.trained.parameters()).flatten()[0]
        pl_module.log("figure", weight + trainer.current_epoch, batch_size=1)


class At(Callback):
    """Do something in a hook once a step is reached."""

    def __init__(self, hook, step, action):
        self.step, self.action = step, action
        setattr(self, hook, self.act)

    def act(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            self.action(trainer, pl_module)


def raises(error):
    def action(trainer, pl_module):
        raise error

    return action


def sends(number):
    return lambda trainer, pl_module: os.kill(os.getpid(), number)


def stop(trainer, pl_module):
    trainer.should_stop = True


def poison(trainer, pl_module):
    pl_module.teacher.means.fill_(torch.nan)


def keepers(folder):
    return [
        ModelCheckpoint(folder, "best-{step}", monitor="figure", auto_insert_metric_name=False),
        ModelCheckpoint(folder, "last", every_n_train_steps=4, enable_version_counter=False),
    ]


def run(folder, *callbacks, log="first", resume=False, length=LENGTH, **changes):
    return fit(
        module(),
        *callbacks,
        StudentEMA([0.9]),
        Figure(),
        *keepers(folder),
        prior=data(length=length, val_samples=12, val_batch_size=4),
        ckpt_path=folder / "last.ckpt" if resume else None,
        logger=CSVLogger(folder / log, name="", version="", flush_logs_every_n_steps=1),
        enable_checkpointing=True,
        **({"max_steps": STEPS} | changes),
    )


def rows(folder):
    """The figures of a run and of what went on from it, without what depends on the clock, in the order of steps."""
    found = [
        row for log in ("first", "second") for row in read_metrics(folder / log / "metrics.csv")
    ]
    kept = [{name: x for name, x in row.items() if not name.startswith("speed/")} for row in found]
    return sorted(kept, key=lambda row: (row["step"], "figure" in row))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run(folder)
    return folder


def last(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def best(folder):
    """The best checkpoint as the last one knows it: its name and figure; and all checkpoints that are there."""
    (state,) = (x for x in last(folder)["callbacks"].values() if x.get("monitor") == "figure")
    there = sorted(path.name for path in folder.glob("*.ckpt"))
    return Path(state["best_model_path"]).name, float(state["best_model_score"]), there


def assert_same_run(whole, folder, *, lost=(), repeated=0):
    """Bit for bit; figures of some steps may be lost, some rows be logged again."""
    ours, theirs = last(folder), last(whole)
    for part in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert same(ours[part], theirs[part]), part
    assert best(folder) == best(whole)
    found = rows(folder)
    once = [row for k, row in enumerate(found) if row not in found[:k]]
    assert once == [row for row in rows(whole) if row["step"] not in lost]
    assert len(found) - len(once) == repeated


ENDINGS = {
    "max_steps": (None, {"max_steps": 10}, None, 10),
    "max_epochs": (None, {"max_steps": -1, "max_epochs": 2}, None, 16),
    "should_stop": (At("on_train_batch_end", 8, stop), {}, None, 8),
    "should_stop in a validation": (At("on_validation_epoch_end", 8, stop), {}, None, 8),
    "error at the end of a step": (
        At("on_train_batch_end", 10, raises(OSError("user's"))),
        {},
        OSError,
        10,
    ),
    "error at the start of a step": (
        At("on_train_batch_start", 10, raises(OSError("user's"))),
        {},
        OSError,
        10,
    ),
    "error at the start of an epoch": (
        At("on_train_batch_start", 8, raises(OSError("user's"))),
        {},
        OSError,
        8,
    ),
    "error in a step": (At("on_before_backward", 10, raises(OSError("user's"))), {}, OSError, 10),
    "error before an update": (
        At("on_before_optimizer_step", 10, raises(OSError("user's"))),
        {},
        OSError,
        10,
    ),
    "error in a validation": (
        At("on_validation_batch_end", 8, raises(OSError("user's"))),
        {},
        OSError,
        8,
    ),
    "error after a validation": (
        At("on_train_epoch_end", 8, raises(OSError("user's"))),
        {},
        OSError,
        8,
    ),
    "not a number": (At("on_train_batch_start", 10, poison), {}, NonFiniteError, 10),
    "SIGTERM": (At("on_train_batch_start", 9, sends(signal.SIGTERM)), {}, SystemExit, 10),
    "Ctrl-C": (At("on_before_zero_grad", 9, sends(signal.SIGINT)), {}, SystemExit, 10),
    "SIGTERM at the end of an epoch": (
        At("on_train_batch_end", 8, sends(signal.SIGTERM)),
        {},
        SystemExit,
        8,
    ),
    "SIGTERM in a validation": (
        At("on_validation_batch_end", 8, sends(signal.SIGTERM)),
        {},
        SystemExit,
        8,
    ),
    "SIGTERM after the last step": (
        At("on_train_batch_end", 10, sends(signal.SIGTERM)),
        {"max_steps": 10},
        SystemExit,
        10,
    ),
    "accumulation": (
        At("on_train_batch_start", 5, raises(OSError("user's"))),
        {"accumulate_grad_batches": 2},
        OSError,
        5,
    ),
    "SIGTERM in a validation within an epoch": (
        At("on_validation_batch_end", 12, sends(signal.SIGTERM)),
        {"val_check_interval": 4},
        SystemExit,
        12,
    ),
}
LOST = {"error at the end of a step": [9]}  # the error comes before the figures are logged


@pytest.mark.parametrize("ending", ENDINGS)
def test_last_holds_the_last_step_and_goes_on_bit_for_bit(ending, tmp_path, request):
    callback, changes, error, step = ENDINGS[ending]
    whole = request.getfixturevalue("straight")
    if kept := {
        name: x
        for name, x in changes.items()
        if name in ("accumulate_grad_batches", "val_check_interval")
    }:
        run(whole := tmp_path / "straight", **kept)
    folder = tmp_path / "broken"
    callbacks = [] if callback is None else [callback]
    if error is None:
        run(folder, *callbacks, **changes)
    else:
        with pytest.raises(error):
            run(folder, *callbacks, **changes)
    assert last(folder)["global_step"] == step
    run(folder, log="second", resume=True, **kept)
    repeated = int(
        ending == "error after a validation"
    )  # before the best checkpoint: validated again
    assert_same_run(whole, folder, lost=LOST.get(ending, ()), repeated=repeated)


def test_a_run_that_was_broken_twice_counts_its_epochs_right(tmp_path, straight):
    folder = tmp_path / "broken"
    for log, step in (("zeroth", 8), ("first", 10)):
        with pytest.raises(OSError, match="user's"):
            run(
                folder,
                At("on_train_batch_start", step, raises(OSError("user's"))),
                log=log,
                resume=step > 8,
            )
    run(folder, log="second", resume=True)
    early = read_metrics(folder / "zeroth" / "metrics.csv")
    assert [row["epoch"] for row in rows(folder)] == [
        row["epoch"] for row in rows(straight)[len(early) :]
    ]
    assert same(last(folder)["state_dict"], last(straight)["state_dict"])


def test_the_validation_at_the_end_of_a_finished_run_is_made_up_for_once(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "broken"
    run(whole, max_steps=16)
    with pytest.raises(OSError, match="user's"):
        run(folder, At("on_validation_batch_end", 16, raises(OSError("user's"))), max_steps=16)
    run(folder, log="second", resume=True, max_steps=16)
    assert_same_run(whole, folder)
    run(folder, log="third", resume=True, max_steps=16)
    assert read_metrics(folder / "third" / "metrics.csv") == []


def test_a_finished_run_that_is_resumed_without_validation_stays_finished(tmp_path):
    with pytest.raises(OSError, match="user's"):
        run(tmp_path, At("on_validation_batch_end", 16, raises(OSError("user's"))), max_steps=16)
    run(tmp_path, log="second", resume=True, max_steps=16, limit_val_batches=0)
    assert last(tmp_path)["global_step"] == 16
    assert rows(tmp_path)[-1]["step"] == 15
    fit(
        module(),
        prior=data(),
        max_steps=4,
        enable_checkpointing=True,
        default_root_dir=tmp_path / "none",
    )
    (path,) = (tmp_path / "none").rglob("*.ckpt")
    assert not is_validation_pending(path)  # of nothing


def test_a_trainer_may_run_again(tmp_path):
    keeper = ModelCheckpoint(tmp_path, "last", every_n_train_steps=4, enable_version_counter=False)
    m, prior = module(), data(val_samples=4)
    again = fit(m, keeper, prior=prior, max_steps=4, enable_checkpointing=True)
    written = (tmp_path / "last.ckpt").stat().st_mtime_ns
    again.validate(m, prior, verbose=False)
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == written
    again.fit_loop.epoch_loop.max_steps = 6
    again.fit(m, prior)
    assert last(tmp_path)["global_step"] == 6
    assert sum(isinstance(callback, LastStep) for callback in again.callbacks) == 1


def test_a_trainer_of_its_own_writes_last_where_it_has_written_no_last_step(tmp_path):
    """Lightning's default ModelCheckpoint writes at the end of an epoch, however that ends."""
    settings = {"enable_checkpointing": True, "default_root_dir": tmp_path, "prior": data(length=4)}
    with pytest.raises(OSError, match="user's"):
        fit(module(), At("on_train_batch_end", 3, raises(OSError("user's"))), **settings)
    (path,) = tmp_path.rglob("*.ckpt")
    assert path.name == "last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 3
    fit(module(), ckpt_path=path, max_steps=4, **settings)
    assert (
        torch.load(path, weights_only=True)["global_step"] == 4
    )  # not left behind by the file beside it


@pytest.mark.parametrize(
    "changes", [{"max_steps": 4}, {"max_steps": 3}, {"max_steps": -1, "max_epochs": 1}]
)
def test_no_second_file_is_written_of_a_step(changes, tmp_path):
    fit(
        module(),
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        prior=data(length=4),
        **changes,
    )
    (path,) = tmp_path.rglob("*.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == (
        3 if changes["max_steps"] == 3 else 4
    )


@pytest.mark.parametrize(
    "changes", [{"enable_checkpointing": False}, {"enable_checkpointing": True, "fast_dev_run": 2}]
)
def test_a_trainer_that_writes_no_checkpoints_is_left_so(changes, tmp_path):
    fit(module(), default_root_dir=tmp_path, **changes)
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_the_link_called_last_becomes_a_file_and_the_best_stays(tmp_path):
    keeper = ModelCheckpoint(
        tmp_path, "best", monitor="figure", save_last="link", save_on_train_epoch_end=True
    )
    fit(
        module(),
        Figure(),
        keeper,
        prior=data(length=4, val_samples=2),
        max_steps=6,
        enable_checkpointing=True,
    )
    steps = {
        path.name: torch.load(path, weights_only=True)["global_step"]
        for path in tmp_path.glob("*.ckpt")
    }
    assert steps["last.ckpt"] == 6
    assert not (tmp_path / "last.ckpt").is_symlink()
    assert steps[Path(keeper.best_model_path).name] in (4, 6)


def test_nothing_is_written_where_an_error_met_the_update_of_the_weights(tmp_path):
    m, keeper = module(), ModelCheckpoint(tmp_path, "last", every_n_train_steps=2)

    def break_update(trainer, pl_module):
        trainer.optimizers[0].register_step_post_hook(
            lambda *_: raises(RuntimeError("out of memory"))(trainer, pl_module)
        )

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(m, At("on_train_batch_start", 3, break_update), keeper, enable_checkpointing=True)
    assert last(tmp_path)["global_step"] == 2


def test_numbers_that_were_found_late_are_not_saved(tmp_path):
    """As on an accelerator, where the host sees them some steps later."""
    late = raises(NonFiniteError("the loss not finite at step 1", 1))
    keeper = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1)
    with pytest.raises(NonFiniteError):
        fit(
            module(),
            At("on_train_batch_start", 3, late),
            keeper,
            enable_checkpointing=True,
            max_steps=4,
        )
    assert last(tmp_path)["global_step"] == 3  # what Lightning wrote; LastStep adds nothing


def test_the_last_file_of_the_run_that_it_went_on_from_is_left_alone(tmp_path):
    """Its ModelCheckpoint names that file when it is restored; it was overwritten."""

    def train(folder, steps, **changes):
        keeper = ModelCheckpoint(
            folder, "last", every_n_train_steps=2, enable_version_counter=False
        )
        fit(module(), keeper, max_steps=steps, enable_checkpointing=True, **changes)
        return folder / "last.ckpt"

    first = train(tmp_path / "first", 2)
    before = first.read_bytes()
    other = train(tmp_path / "other", 3, ckpt_path=first)
    assert first.read_bytes() == before
    assert torch.load(other, weights_only=True)["global_step"] == 3
