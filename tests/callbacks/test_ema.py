import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.callbacks import StudentEMA
from tiny import data, fit, module, same, weights


class Students(Callback):
    """The student's weights after every optimizer step, and the step that each batch ended at."""

    def __init__(self):
        self.after, self.steps = [], []

    def on_train_start(self, trainer, pl_module):
        self.after.append(weights(pl_module.student))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps.append(trainer.global_step)
        if trainer.global_step == len(self.after):
            self.after.append(weights(pl_module.student))


def average(students, decay):
    """By hand: the initial weights, then d old + (1 - d) new with d = min(decay, (1 + n) / (10 + n)), n from 1."""
    mean = {name: value.double() for name, value in students[0].items()}
    for n, new in enumerate(students[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        mean = {name: d * old + (1 - d) * new[name].double() for name, old in mean.items()}
    return mean


def check(m, students, decays):
    for decay in decays:
        ours = m.averages[f"ema_{decay}".replace(".", "_")].state_dict()
        for name, expected in average(students, decay).items():
            torch.testing.assert_close(ours[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_averages_are_those_computed_by_hand():
    m, seen, decays = (
        module(),
        Students(),
        [0.25, 0.999, 0.0],
    )  # 0.25 is reached at the second step, 0.999 never
    fit(m, seen, StudentEMA(decays), max_steps=5, prior=data(length=5))
    check(m, seen.after, decays)
    assert same(weights(m.averages["ema_0_0"]), weights(m.student))
    assert not same(weights(m.averages["ema_0_25"]), weights(m.student))
    assert not any(p.requires_grad for p in m.averages.parameters())


def test_an_accumulated_step_is_averaged_once():
    m, seen = module(), Students()
    fit(m, seen, StudentEMA([0.9]), max_steps=3, accumulate_grad_batches=3, prior=data(length=9))
    assert seen.steps == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert len(seen.after) == 4
    check(m, seen.after, [0.9])


def test_the_checkpoint_holds_the_average_of_its_own_step_and_all_that_is_evaluated(tmp_path):
    m, seen = module(), Students()
    # the checkpoint comes first in the list and still writes last
    saved = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1, auto_insert_metric_name=False
    )
    fit(m, saved, seen, StudentEMA([0.9, 0.5]), max_steps=4, enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    for decay in (0.9, 0.5):
        for name, expected in average(seen.after[:3], decay).items():
            key = f"averages.ema_{decay}.".replace("0.", "0_") + name
            torch.testing.assert_close(state[key].double(), expected, rtol=1e-5, atol=1e-6)
    assert same(
        {k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")},
        seen.after[2],
    )

    restored = module()
    fit(restored, StudentEMA([0.9, 0.5]), max_steps=2, ckpt_path=tmp_path / "2.ckpt")
    assert same(weights(restored), state)
    z, y = m.teacher.draw_indexed(torch.arange(4), seed=0, stream="test")
    one = torch.ones(4)
    with torch.no_grad():
        expected = z + restored.averages["ema_0_9"](z, one, y, delta=one, gamma=1.5 * one)
    assert torch.equal(restored.generate(z, y), expected)


def test_the_average_runs_with_weights_of_its_own():
    m = module()
    fit(m, StudentEMA([0.9]), max_steps=1)
    average = m.averages["ema_0_9"]
    z, y = m.teacher.draw_indexed(torch.arange(4), seed=0, stream="test")
    one = torch.ones(4)
    before = average(z, one, y, delta=one, gamma=one)
    with torch.no_grad():
        for p in m.student.parameters():
            p.zero_()
    assert torch.equal(
        average(z, one, y, delta=one, gamma=one), before
    )  # also its delta and gamma embedders
    assert not torch.equal(average(z, one, y, delta=one / 2, gamma=one), before)
    assert not torch.equal(average(z, one, y, delta=one, gamma=one / 2), before)


def saved(tmp_path, *decays):
    """A checkpoint after two steps, and the module that wrote it."""
    m = module()
    averages = [StudentEMA(decays)] if decays else []
    fit(m, *averages, ModelCheckpoint(tmp_path, "two"), max_steps=2, enable_checkpointing=True)
    return tmp_path / "two.ckpt", m


@pytest.mark.parametrize("before", [(), (0.9,)])
def test_an_average_that_is_added_at_resuming_starts_from_the_current_weights_and_says_so(
    tmp_path, said, before
):
    path, m = saved(tmp_path, *before)
    restored, seen = module(), Students()
    fit(restored, seen, StudentEMA([0.5, *before]), max_steps=3, ckpt_path=path)
    assert list(restored.averages) == [
        "ema_0_5",
        *(["ema_0_9"] if before else []),
    ]  # the first serves validation
    assert same(seen.after[0], weights(m.student))
    d = min(0.5, 4 / 13)
    for name, value in weights(restored.averages["ema_0_5"]).items():
        expected = (
            d * seen.after[0][name].double() + (1 - d) * weights(restored.student)[name].double()
        )
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    told = [line for line in said() if "ema_" in line]
    assert told == ["ema_0_5 is not in the checkpoint: it starts from the current weights"]


def test_an_average_that_is_removed_at_resuming_is_left_out_and_said(tmp_path, said):
    path, m = saved(tmp_path, 0.9, 0.5)
    restored = module()
    fit(restored, StudentEMA([0.5]), max_steps=2, ckpt_path=path)
    assert same(weights(restored.averages["ema_0_5"]), weights(m.averages["ema_0_5"]))
    assert "ema_0_9 of the checkpoint is no average of this run: it is left out" in said()
    alone = module()
    fit(alone, max_steps=2, ckpt_path=path)
    assert same(weights(alone.student), weights(m.student))


def test_an_average_is_updated_once_a_step_of_narrow_weights():
    """torch runs the hooks of Adam.step for MasterAdam too, once the process has made a plain Adam."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    updates = StudentEMA([0.5])
    steps = []
    lerp = torch._foreach_lerp_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "_foreach_lerp_", lambda *a: steps.append(a) or lerp(*a))
        fit(module(check_teacher=False), updates, max_steps=3, precision="bf16-true")
    assert len(steps) == 3


def test_without_warmup_the_decay_is_the_papers_from_the_first_step_on():
    m, seen = module(), Students()
    fit(m, seen, StudentEMA([0.9], warmup=False), max_steps=3)
    mean = {name: value.double() for name, value in seen.after[0].items()}
    for new in seen.after[1:]:
        mean = {name: 0.9 * old + 0.1 * new[name].double() for name, old in mean.items()}
    for name, expected in mean.items():
        ours = m.averages["ema_0_9"].state_dict()[name]
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
