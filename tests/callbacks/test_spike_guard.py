import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.callbacks import SpikeGuard, StudentEMA
from freeflow_lightning.callbacks.spike_guard import SpikeError
from tiny import fit, module, same, weights


class Blow(Callback):
    """Breaks the student after the given steps, and keeps what the optimizer and the weights are after every step."""

    def __init__(self, *steps):
        self.steps, self.after, self.moments = steps, {}, {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        step = trainer.global_step
        self.after[step] = weights(pl_module)
        state = trainer.optimizers[0].state_dict()["state"]
        self.moments[step] = {k: v["exp_avg"].clone() for k, v in state.items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in self.steps:
            with torch.no_grad():
                for p in pl_module.student.parameters():
                    p.mul_(30)


def run(folder, blow, steps=16, guard=None, **more):
    """Checkpoints every four steps, all kept; the guard comes first, so that `blow` sees what it has done."""
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
    guard = guard or SpikeGuard(factor=5, window=4, rollbacks=2)
    m = module()
    fit(m, guard, blow, StudentEMA([0.9]), keep, max_steps=steps, enable_checkpointing=True, **more)
    return m


def test_a_jump_brings_back_weights_averages_and_optimizer_and_other_noise_follows(
    tmp_path, caplog
):
    quiet, blow = Blow(), Blow(6)
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "quiet", quiet, steps=5)
        assert "rollback" not in caplog.text
        whole = run(tmp_path / "blown", blow, steps=10)
    assert same(blow.after[4], quiet.after[4])
    assert same(blow.after[7], blow.after[4])  # the step that jumped is undone
    assert same(blow.moments[7], blow.moments[4])
    assert any(key.startswith("averages.") for key in blow.after[7])
    assert not same(blow.after[8], quiet.after[5])  # from the same weights, by another batch
    [line] = [r.getMessage() for r in caplog.records if "rollback" in r.getMessage()]
    assert line.startswith("step 7: the ")
    assert "those of step 4 (" in line
    assert "3 steps further (rollback 1 of 2)" in line

    guard = SpikeGuard(factor=5, window=4, rollbacks=2)  # and a resumed run goes on as this one did
    path = tmp_path / "blown" / "step=8.ckpt"
    resumed = run(tmp_path / "again", Blow(), steps=10, guard=guard, ckpt_path=path)
    assert same(weights(whole), weights(resumed))
    assert guard.done == 1


def test_no_more_than_so_many_times_and_one_checkpoint_further_back_each_time(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(SpikeError, match=r"after 2 rollbacks"):
        run(tmp_path, Blow(9, 10, 11))
    told = [r.getMessage() for r in caplog.records if "rollback " in r.getMessage()]
    assert ["those of step 8 " in told[0], "those of step 4 " in told[1]] == [True, True]


def test_without_a_checkpoint_it_says_so_and_goes_on(caplog):
    guard = SpikeGuard(factor=5, window=4)
    with caplog.at_level(logging.WARNING):
        fit(module(), guard, Blow(6), max_steps=7)
    assert "no checkpoint is written yet to go back to" in caplog.text
    assert guard.done == 0


def test_a_residual_that_was_exactly_zero_has_no_size_to_jump_from():
    """As the diagonal of a preconditioned PosteriorModule."""
    guard = SpikeGuard(window=2)
    for norm in (0.0, 0.0, 1e-3):
        guard._noted = ["diagonal"], torch.tensor([norm]), lambda: None
        assert guard._judge() == ""
