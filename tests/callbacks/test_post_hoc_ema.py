import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning import FlowMap
from freeflow_lightning.callbacks import PostHocEMA, StudentEMA
from freeflow_lightning.training.power_averages import find_exponent
from tiny import fit, module, same, weights


class Students(Callback):
    """The student's weights at the start and after every step."""

    def __init__(self):
        self.after = []

    def on_train_start(self, trainer, pl_module):
        self.after.append(weights(pl_module.student))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(weights(pl_module.student))


def tracked(students, length):
    """The average of a length by its closed form: (tau^g - (tau - 1)^g) / t^g of step tau, g = gamma + 1."""
    g, n = find_exponent(length) + 1, len(students) - 1
    mean = {name: torch.zeros_like(value).double() for name, value in students[0].items()}
    for tau, new in enumerate(students[1:], start=1):
        share = (tau**g - (tau - 1) ** g) / n**g
        for name, value in new.items():
            mean[name] += share * value.double()
    return mean


def close(ours, expected, tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(ours[name].double(), value, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Forty steps in two halves, as a resumed run has them, beside a plain average."""
    folder = tmp_path_factory.mktemp("run")
    seen, half = Students(), Students()

    def train(m, students, steps, **more):
        keep = ModelCheckpoint(folder / "checkpoints", "last", save_last=False)
        averages = [StudentEMA([0.9]), PostHocEMA((0.05, 0.1), every_n_steps=2)]
        options = {"enable_checkpointing": True, "default_root_dir": folder}
        fit(m, students, *averages, keep, max_steps=steps, **options, **more)
        return folder / "checkpoints" / "last.ckpt"

    m = module()
    train(m, half, 20)
    resumed = module()
    path = train(resumed, seen, 40, ckpt_path=folder / "checkpoints" / "last.ckpt")
    return path, half.after + seen.after[1:], resumed


def test_the_tracked_lengths_are_those_of_the_closed_form_over_a_resumption(run):
    _, students, m = run
    for length in (0.05, 0.1):
        name = f"ema_length_{length}".replace(".", "_")
        close(m.averages[name].state_dict(), tracked(students, length), 2e-6)
    assert list(m.averages) == ["ema_0_9", "ema_length_0_05", "ema_length_0_1"]


@pytest.mark.parametrize("length", [0.05, 0.08, 0.12])
def test_an_average_of_another_length_is_the_one_that_would_have_been_tracked(run, length):
    path, students, m = run
    made = FlowMap.from_checkpoint(path, ema_length=length)
    assert len(students) == 41
    expected = tracked(students, length)
    moved = max(float((expected[k] - students[-1][k]).abs().max()) for k in expected)
    close(made.network.state_dict(), expected, 0.01 * moved)
    if length == 0.05:
        assert same(weights(made.network), weights(m.averages["ema_length_0_05"]))
    assert made.about["average"] == f"ema_length_{length}".replace(".", "_")


def test_a_missing_snapshot_other_lengths_and_two_averages_are_refused(run, tmp_path):
    path = run[0]
    snapshot = path.parent.parent / "ema_snapshots" / "step_00000008.safetensors"
    aside = snapshot.rename(tmp_path / "aside")
    with pytest.raises(FileNotFoundError, match="step_00000008"):
        FlowMap.from_checkpoint(path, ema_length=0.08)
    aside.rename(snapshot)
    with pytest.raises(ValueError, match="leave one out"):
        FlowMap.from_checkpoint(path, ema_length=0.08, average="raw")
    with pytest.raises(ValueError, match=r"lengths \[0\.05, 0\.1\].*got \[0\.2\]"):
        fit(module(), StudentEMA([0.9]), PostHocEMA([0.2]), ckpt_path=path, max_steps=41)
