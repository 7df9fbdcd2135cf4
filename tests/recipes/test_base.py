import math
import os

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.recipes.flow_matching import FlowMatchingModule
from freeflow_lightning.recipes.holders import Frozen
from freeflow_lightning.recipes.outputs import ValidationBatch
from freeflow_lightning.training.finite import NonFiniteError
from tiny import data, fit, mlp, module, same, trainer, weights


def attached():
    m = module()
    m.trainer = trainer(
        callbacks=[
            ModelCheckpoint("somewhere"),
            ModelCheckpoint("elsewhere", every_n_train_steps=3),
        ],
        enable_checkpointing=True,
    )
    return m


def test_frozen_hides_a_network_from_training_and_checkpoints_but_moves_it():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    owner = nn.ModuleList([Frozen(net)])
    owner.train()
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert list(owner.parameters()) == []
    assert owner.state_dict() == {}
    owner.double()
    assert net[0].weight.dtype == torch.float64


def test_finite_terms_pass_even_where_their_sum_overflows():
    attached().check_finite({"a": torch.full((4,), 3e38), "b": torch.zeros(())})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_terms_that_are_not_finite_are_named(value):
    m = attached()
    with pytest.raises(
        NonFiniteError,
        match=r"^b and c not finite at step 0 .*last checkpoint: none written yet. Resume",
    ):
        m.check_finite(
            {"a": torch.ones(2), "b": torch.tensor([0.0, value]), "c": torch.tensor(value)}
        )


def test_the_last_checkpoint_is_the_newest_of_all_callbacks(tmp_path):
    m = attached()
    for when, (name, callback) in enumerate(
        zip(("old", "new"), reversed(m.trainer.checkpoint_callbacks), strict=True)
    ):
        callback.last_model_path = str(tmp_path / name)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    m.trainer.checkpoint_callbacks[-1].best_model_path = str(tmp_path / "removed")
    with pytest.raises(NonFiniteError, match=f"last checkpoint: {tmp_path / 'new'}. Resume"):
        m.check_finite({"a": torch.tensor(torch.nan)})


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(NonFiniteError, match=r"^a not finite"):
        attached().check_finite({"a": torch.tensor([torch.inf, -torch.inf])})


def test_validation_draws_from_the_first_average():
    m = module()
    assert m.evaluated is m.student
    fit(m, StudentEMA([0.5, 0.9]), max_steps=2)
    assert m.evaluated is m.averages["ema_0_5"]
    batch = next(iter(data(val_samples=4, seed=3).val_dataloader()))
    evaluation = m.validation_step(batch, 0)
    assert isinstance(evaluation, ValidationBatch)
    z, y = m.teacher.draw_indexed(torch.arange(4), seed=3, stream="validation")
    gamma = torch.full((4,), 1.5)
    one = torch.ones(4)
    expected = z + m.averages["ema_0_5"](z, one, y, delta=one, gamma=gamma)
    assert torch.equal(evaluation.samples, expected)
    with torch.no_grad():
        next(m.averages["ema_0_5"].parameters()).add_(1.0)  # its own weights, not the student's
    assert not torch.equal(m.validation_step(batch, 0).samples, expected)
    assert torch.equal(
        m.student(z, one, y, delta=one, gamma=gamma), m.student(z, one, y, delta=one, gamma=gamma)
    )


def test_the_inventory_names_all_networks():
    m = module()
    fit(m, StudentEMA([0.5]), max_steps=1)
    assert [(name, state) for name, _, state in m.summary_rows()] == [
        ("teacher", "frozen, not saved"),
        ("student", "trained"),
        ("auxiliary", "trained"),
        ("ema_0_5", "average, saved"),
    ]


def matching(**changes):
    return FlowMatchingModule(mlp(), (2,), **({"num_classes": 2, "warmup_steps": 2} | changes))


class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return torch.tensor([2.0, -1.0]) + 0.1 * torch.randn(
            2, generator=torch.Generator().manual_seed(i)
        ), i % 2


def test_flow_matching_learns_where_the_data_is():
    m = matching(lr=3e-2)
    fit(m, max_steps=80, prior=torch.utils.data.DataLoader(Points(), 32), log_every_n_steps=1000)
    z, y = m.teacher.draw_indexed(torch.arange(64), seed=0, stream="test")
    drawn = m.generate(z, y)
    assert (drawn.mean(0) - torch.tensor([2.0, -1.0])).abs().max() < 0.3
    assert drawn.std(0).max() < 0.6


def test_flow_matching_drops_labels_and_draws_by_its_generator():
    m = matching(label_dropout=0.25)
    x, labels = torch.zeros(4000, 2), torch.ones(4000, dtype=torch.long)
    z, t, y = m.draw(x, labels, torch.Generator().manual_seed(0))
    assert float((y == 2).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert set(y.tolist()) == {1, 2}
    assert float(z.std()) == pytest.approx(1.0, abs=0.03)
    again = m.draw(x, labels, torch.Generator().manual_seed(0))
    assert all(map(torch.equal, (z, t, y), again))


def test_flow_matching_learning_rate_rises_and_falls_along_a_cosine():
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(
        matching(lr=1e-3, warmup_steps=4),
        Rates(),
        max_steps=20,
        prior=torch.utils.data.DataLoader(Points(), 32),
    )
    assert rates[0] == pytest.approx(0.25e-3)
    assert rates[10] == pytest.approx(1e-3 * (0.01 + 0.99 / 2))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[19] == pytest.approx(1e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * 0.95)) / 2))


@pytest.mark.parametrize("wrong", [{"label_dropout": 1.5}, {"num_classes": 0}])
def test_flow_matching_arguments(wrong):
    with pytest.raises(ValueError, match="expected label_dropout"):
        matching(**wrong)


def test_a_trainer_that_logs_nothing_trains():
    m = module()
    before = weights(m.student)
    fit(m, max_steps=2, barebones=True, log_every_n_steps=0)
    assert not same(before, weights(m.student))


class Rates(Callback):
    """Notes the student's and the auxiliary network's learning rate at each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_both_rates_fall_along_half_a_cosine_over_the_last_steps():
    rates = Rates()
    fit(module(student_lr=1e-3, auxiliary_lr=1e-2, lr_decay_steps=4), rates, max_steps=6)
    factors = [1, 1, *((1 + math.cos(math.pi * k / 4)) / 2 for k in range(4))]
    assert rates.seen == [[pytest.approx(1e-3 * f), pytest.approx(1e-2 * f)] for f in factors]


def test_rates_stay_unless_asked_to_fall():
    rates = Rates()
    made = fit(module(student_lr=1e-3, auxiliary_lr=1e-2), rates, max_steps=3)
    assert rates.seen == [[1e-3, 1e-2]] * 3
    assert made.lr_scheduler_configs == []


def test_a_fall_longer_than_the_run_is_said():
    with pytest.warns(UserWarning, match="lr_decay_steps=7 is longer than this run of 6 steps"):
        fit(module(lr_decay_steps=7), max_steps=6)


def test_a_resumed_run_goes_on_along_the_fall(tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    straight, resumed, rates = module(lr_decay_steps=5), module(lr_decay_steps=5), Rates()
    fit(straight, checkpoints, max_steps=6, enable_checkpointing=True)
    fit(resumed, rates, max_steps=6, ckpt_path=tmp_path / "step=3.ckpt")
    assert len(rates.seen) == 3
    assert rates.seen[0][0] == pytest.approx(1e-2 * (1 + math.cos(math.pi * 2 / 5)) / 2)
    assert same(weights(straight.student), weights(resumed.student))
