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
from freeflow_lightning.training.run_folder import read_metrics
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


def run(folder, *callbacks, ckpt_path=None, length=LENGTH, **changes):
    return fit(
        module(),
        *callbacks,
        StudentEMA([0.9]),
        Figure(),
        *keepers(folder),
        prior=data(length=length, val_samples=12, val_batch_size=4),
        ckpt_path=ckpt_path,
        logger=CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1),
        enable_checkpointing=True,
        **({"max_steps": STEPS} | changes),
    )


def rows(*folders):
    """The figures of one run after the other, without what depends on the clock, in the order of steps."""
    found = [row for folder in folders for row in read_metrics(Path(folder) / "metrics.csv")]
    kept = [{name: x for name, x in row.items() if not name.startswith("speed/")} for row in found]
    return sorted(kept, key=lambda row: (row["step"], "figure" in row))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run(folder)
    return folder


def last(folder):
    return torch.load(Path(folder) / "last.ckpt", weights_only=True)


ENDINGS = {
    "max_steps": (None, {"max_steps": 10}, None, 10),
    "max_epochs": (None, {"max_steps": -1, "max_epochs": 2}, None, 16),
    "should_stop": (At("on_train_batch_end", 10, stop), {}, None, 10),
    "should_stop in a validation": (At("on_validation_epoch_end", 8, stop), {}, None, 8),
    "error at the end of a step": (At("on_train_batch_end", 10, raises(OSError("user's"))), {}, OSError, 10),
    "error at the start of a step": (At("on_train_batch_start", 10, raises(OSError("user's"))), {}, OSError, 10),
    "error at the start of an epoch": (At("on_train_batch_start", 8, raises(OSError("user's"))), {}, OSError, 8),
    "error in a step": (At("on_before_backward", 10, raises(OSError("user's"))), {}, OSError, 10),
    "error before an update": (At("on_before_optimizer_step", 10, raises(OSError("user's"))), {}, OSError, 10),
    "error in a validation": (At("on_validation_batch_end", 8, raises(OSError("user's"))), {}, OSError, 8),
    "error after a validation": (At("on_train_epoch_end", 8, raises(OSError("user's"))), {}, OSError, 8),
    "not a number": (At("on_train_batch_start", 10, poison), {}, NonFiniteError, 10),
    "SIGTERM": (At("on_train_batch_start", 9, sends(signal.SIGTERM)), {}, SystemExit, 10),
    "Ctrl-C": (At("on_before_zero_grad", 9, sends(signal.SIGINT)), {}, SystemExit, 10),
    "SIGTERM at the end of an epoch": (At("on_train_batch_end", 8, sends(signal.SIGTERM)), {}, SystemExit, 8),
    "SIGTERM in a validation": (At("on_validation_batch_end", 8, sends(signal.SIGTERM)), {}, SystemExit, 8),
    "accumulation": (At("on_train_batch_start", 5, raises(OSError("user's"))), {"accumulate_grad_batches": 2}, OSError, 5),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_last_holds_the_last_step_and_goes_on_bit_for_bit(ending, tmp_path, request):
    callback, changes, error, step = ENDINGS[ending]
    same_settings = {name: x for name, x in changes.items() if name == "accumulate_grad_batches"}
    if same_settings:
        whole = tmp_path / "straight"
        run(whole, **same_settings)
    else:
        whole = request.getfixturevalue("straight")
    first, second = tmp_path / "first", tmp_path / "second"
    callbacks = [] if callback is None else [callback]
    if error is None:
        run(first, *callbacks, **changes)
    else:
        with pytest.raises(error):
            run(first, *callbacks, **changes)
    assert last(first)["global_step"] == step
    run(second, ckpt_path=first / "last.ckpt", **same_settings)
    for part in ("state_dict", "optimizer_states", "global_step", "epoch", "loops"):
        assert same(last(second)[part], last(whole)[part]), part
    if ending == "should_stop":  # which validates where the straight run does not
        return
    lost = [9] if ending == "error at the end of a step" else []  # before its figures are logged
    assert rows(first, second) == [row for row in rows(whole) if row["step"] not in lost]
