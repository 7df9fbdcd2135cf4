"""Numbers that are not finite, seen at once on a CPU and late on an accelerator; and no wait of the device for the host."""

import collections
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils._python_dispatch import TorchDispatchMode

from freeflow_lightning.callbacks import (
    AlphaSchedule,
    ConfidentRegionWarmup,
    DistillationProgress,
    HealthMonitor,
    StudentEMA,
)
from freeflow_lightning.flow import host_generator, training_generator
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction
from freeflow_lightning.profiling.no_data import no_data
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.training import finite
from freeflow_lightning.training.finite import Broken, FiniteWatch, NonFiniteError, max_magnitudes
from recipes.test_freeflow import Poison, nan_auxiliary, nan_gradient, nan_teacher
from tiny import data, fit, learned_teacher, module, same, weights


def test_the_first_broken_step_is_kept():
    watch = FiniteWatch()
    watch.add(0, ["a", "b"], torch.tensor([1.0, 2.0]))
    assert watch.look() is None
    watch.add(1, ["a", "b", "b"], torch.tensor([1.0, torch.nan, -torch.inf]))
    watch.add(2, ["a"], torch.tensor([torch.nan]))
    assert watch.look() == Broken(1, ("b",))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_largest_keeps_what_is_not_finite(bad):
    x = torch.tensor([[1.0, bad], [3e38, -3e38]])
    assert not torch.isfinite(max_magnitudes([x]))[0]
    assert torch.isfinite(max_magnitudes([x[1]]))[0]  # finite, though its sum of squares is not


@pytest.fixture
def slow_host(monkeypatch):
    """Copies to the host that arrive only when waited for, as on an accelerator that is far behind."""
    waits = []
    monkeypatch.setattr(
        finite, "copy_to_host", lambda x: (x.clone(), lambda: False, lambda: waits.append(1))
    )
    return waits


@pytest.mark.parametrize("what", [nan_teacher, nan_auxiliary, nan_gradient])
def test_no_weight_changes_while_the_host_does_not_know(tmp_path, slow_host, what):
    m, poison = module(learned_teacher()), Poison(3, what)
    checkpoint = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1, auto_insert_metric_name=False
    )
    with pytest.raises(NonFiniteError, match=r"not finite at step 3 \(rank 0\).*3.ckpt") as caught:
        fit(
            m,
            poison,
            StudentEMA(),
            checkpoint,
            max_steps=12,
            prior=data(length=12),
            enable_checkpointing=True,
        )
    assert m.trainer.global_step == 6  # steps 3 to 5 were made, and changed nothing
    assert [path.name for path in tmp_path.glob("*")] == ["3.ckpt"]  # none after step 3
    now = {name: value for name, value in weights(m).items() if not name.startswith("averages")}
    assert same(now, {name: poison.weights[name] for name in now})
    assert ("gradient/student" in str(caught.value)) == (what is nan_gradient)
    assert all(bool(torch.isfinite(value).all()) for value in m.averages.state_dict().values())


def test_the_end_of_a_run_waits(slow_host):
    with pytest.raises(NonFiniteError, match="at step 2"):
        fit(module(learned_teacher()), Poison(2, nan_teacher), max_steps=4)


def test_another_optimizer_waits_for_the_norms(slow_host):
    class Plain(FreeFlowModule):
        def configure_optimizers(self):
            return torch.optim.SGD(
                [{"params": list(net.parameters())} for net in self.networks().values()], 1e-2
            )

    made = module(learned_teacher())
    made.__class__ = Plain
    poison = Poison(2, nan_gradient)
    with pytest.raises(NonFiniteError, match="gradient/student not finite at step 2"):
        fit(made, poison, max_steps=4)
    assert same(weights(made), poison.weights)


READS = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "equal",
    "masked_select",
    "_unique2",
    "item",
)
"""Operations after which the host knows a value of the device, and so has waited for it."""


class Reads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        booleans = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for i in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in READS or booleans:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Waits(Callback):
    """Reads of each step, from batch to batch, without those of the draw: its scalars are the host's own."""

    def __init__(self, m):
        self.by_step, draw = {}, m.draw

        def unseen(*arguments):
            self.mode.__exit__(None, None, None)
            drawn = draw(*arguments)
            self.mode.__enter__()
            return drawn

        m.draw = unseen

    def on_train_start(self, trainer, pl_module):
        self.mode = Reads()
        self.mode.__enter__()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx:  # what came after the last batch's callbacks belongs to it
            self.by_step[batch_idx] = dict(self.mode.found)
        self.mode.found.clear()

    def on_train_end(self, trainer, pl_module):
        self.mode.__exit__(None, None, None)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize(
    "prediction", [DiscretePrediction(4), ContinuousPrediction()], ids=["heun", "jvp"]
)
def test_between_two_logged_steps_the_host_reads_nothing_of_the_device(prediction, clip):
    m = module(learned_teacher(), prediction=prediction)
    waits = Waits(m)
    others = [
        StudentEMA(),
        HealthMonitor(window=1),
        AlphaSchedule(1, 1),
        ConfidentRegionWarmup(4),
        DistillationProgress(1),
    ]
    fit(
        m,
        waits,
        *others,
        max_steps=12,
        prior=data(length=12),
        log_every_n_steps=4,
        gradient_clip_val=clip,
        enable_progress_bar=True,
    )
    logged = {4, 8}
    assert len(waits.by_step) == 11
    assert all(not reads for step, reads in waits.by_step.items() if step not in logged), (
        waits.by_step
    )
    assert all(waits.by_step[step] for step in logged)  # the count sees reads where there are some


@pytest.mark.parametrize(
    "prediction", [DiscretePrediction(4), ContinuousPrediction()], ids=["heun", "jvp"]
)
def test_a_step_on_tensors_without_data_reads_none(prediction):
    """Such tensors refuse every look at their values; here with rows that were selected on the host."""
    with no_data():
        m = module(learned_teacher(), prediction=prediction, skip_idle_rows=False)
        p, c = m.draw(8, training_generator(0, 0, 0))
        rows = torch.arange(2)
        assert m.loss((p._replace(active=rows), c._replace(guided=rows[:1]))).loss.shape == ()


def test_scalars_of_an_accelerator_are_drawn_on_the_host():
    elsewhere = SimpleNamespace(device=torch.device("cuda"), initial_seed=lambda: 7)
    host = host_generator(elsewhere)
    assert host.device.type == "cpu"
    assert torch.equal(
        torch.rand(3, generator=host), torch.rand(3, generator=torch.Generator().manual_seed(7))
    )
