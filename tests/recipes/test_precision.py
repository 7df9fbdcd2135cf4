"""What stays in float32 under every precision, and what is refused."""

from copy import deepcopy

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from freeflow_lightning import FlowMap
from freeflow_lightning.callbacks import HealthMonitor, PeriodicFID, StudentEMA, TrajectoryError
from freeflow_lightning.callbacks.ema import decay_at
from freeflow_lightning.flow import CentralDifference, ExactJVP, ForwardDifference
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from freeflow_lightning.objectives import ContinuousPrediction
from freeflow_lightning.teachers import SiTVelocity, VelocityTeacher
from freeflow_lightning.training.optimizer import MasterAdam, adam
from freeflow_lightning.training.strategy_checks import check_strategy
from nets.random_weights import tiny_sit
from tiny import data, fit, learned_teacher, module, same

WIDE, NARROW = torch.float32, torch.bfloat16
PRECISIONS = {"32-true": (WIDE, WIDE), "bf16-mixed": (WIDE, NARROW), "bf16-true": (NARROW, NARROW)}
"""Lightning's name: dtypes of the weights in the networks and of what the networks return."""


def sit_module(**settings):
    net = tiny_sit(3)
    return module(
        VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes),
        network=None,
        check_teacher=False,
        **settings,
    )


class Steps(Callback):
    """Keeps draws and steps."""

    def setup(self, trainer, pl_module, stage):
        self.drawn, self.steps = [], []
        draw, loss = pl_module.draw, pl_module.loss
        pl_module.draw = lambda *a: self.drawn.append(draw(*a)) or self.drawn[-1]
        pl_module.loss = lambda *a: self.steps.append(loss(*a)) or self.steps[-1]


class Averages(Callback):
    """The average as it should be: of the float32 weights."""

    def on_train_start(self, trainer, pl_module):
        (average,) = pl_module.averages.values()
        self.expected = [weight.clone() for weight in average.parameters()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, *_):
        for old, new in zip(self.expected, pl_module.weights(), strict=True):
            old.lerp_(new.float(), 1 - decay_at(trainer.global_step, 0.5))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_times_residuals_lambda_averages_and_adam_are_float32(precision):
    m, seen, expected = sit_module(), Steps(), Averages()
    run = fit(m, seen, StudentEMA([0.5]), expected, precision=precision)
    weights, outputs = PRECISIONS[precision]
    for p, c in seen.drawn:
        assert {x.dtype for x in (p.delta, p.gamma, c.r, c.gamma)} == {WIDE}
    for step in seen.steps:
        assert step.scalars["correction/lambda"].dtype == step.loss.dtype == WIDE
        for residual in step.residuals.values():
            assert residual.error.dtype == WIDE
            assert residual.output.dtype == outputs
    assert {p.dtype for net in (m.teacher, m.student, m.auxiliary) for p in net.parameters()} == {
        weights
    }
    (average,) = m.averages.values()
    assert {p.dtype for p in average.parameters()} == {WIDE}
    for found, value in zip(average.parameters(), expected.expected, strict=True):
        assert torch.equal(found, value)
    state = run.optimizers[0].state_dict()["state"]
    assert {s[name].dtype for s in state.values() for name in ("exp_avg", "exp_avg_sq")} == {WIDE}
    assert m.generate(*m.teacher.draw_indexed(torch.arange(2), seed=0, stream="x")).dtype == WIDE


def test_64_true_agrees_with_32_true():
    """The same numbers are drawn; only the arithmetic is wider."""
    narrow, wide = module(), module()
    fit(narrow), fit(wide, precision="64-true")
    for a, b in zip(narrow.student.parameters(), wide.student.parameters(), strict=True):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("averages", [[StudentEMA([0.5])], []])
def test_every_precision_validates(precision, averages):
    metric = FrechetDistance(FlatFeatures(2))
    evaluations = [
        PeriodicFID(metric, 16, steps=2),
        TrajectoryError(4, 2, 4),
        HealthMonitor(steps=2),
    ]
    prior = data(val_samples=8, val_batch_size=4)
    teacher = learned_teacher() if precision == "64-true" else None
    m = module(teacher, check_teacher=False)
    figures = fit(m, *averages, *evaluations, prior=prior, precision=precision).callback_metrics
    assert all(
        torch.isfinite(figures[name]) for name in ("fid/student", "error/endpoint", "health/spread")
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_student_of_any_precision_returns_float32(dtype):
    m = module()
    exact = FlowMap(m.student, m.teacher).sample(6, guidance=1.3)
    close = {torch.float64: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-2}[dtype]
    flow_map = FlowMap(deepcopy(m.student).to(dtype), m.teacher)
    drawn = flow_map.sample(6, guidance=1.3)
    assert drawn.dtype == torch.float32
    assert float((drawn - exact).norm() / exact.norm()) < close
    z = torch.zeros(2, 2, dtype=torch.float64)
    assert flow_map(z, [0, 1]).dtype == torch.float32


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match=r"got 16-true: .* use bf16-mixed"):
        fit(sit_module(), precision="16-true")


def test_float16_on_a_gpu_is_refused():
    with pytest.raises(
        ValueError, match=r"got 16-mixed: float16 .* use bf16-mixed"
    ):  # Lightning itself takes it for bfloat16 on a CPU
        check_strategy(SingleDeviceStrategy(), "16-mixed")


@pytest.mark.parametrize("derivative", [CentralDifference(), ForwardDifference()])
def test_differences_of_bfloat16_outputs_are_refused(derivative):
    form = ContinuousPrediction(derivative)
    fit(
        sit_module(prediction=form), precision="bf16-mixed", max_steps=1
    )  # the quotient leaves autocast
    with pytest.raises(ValueError, match=r"bfloat16 .* ExactJVP"):
        fit(sit_module(prediction=form), precision="bf16-true", max_steps=1)
    fit(sit_module(prediction=ContinuousPrediction(ExactJVP())), precision="bf16-true", max_steps=1)


def test_small_steps_are_not_lost():
    """At 1.0 bfloat16 numbers are 0.0078 apart below: a step of 1e-4 vanishes without float32 weights."""
    ends = {}
    for dtype, kind in (
        (WIDE, adam),
        (NARROW, adam),
        (NARROW, lambda groups: torch.optim.Adam(groups, fused=True)),
    ):
        weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = kind([{"params": [weight], "lr": 1e-4}])
        for _ in range(300):
            optimizer.zero_grad()
            weight.sum().backward()
            optimizer.step()
        ends[type(optimizer), dtype] = weight[0].item()
    assert ends[torch.optim.Adam, WIDE] == pytest.approx(0.97, abs=1e-5)
    assert ends[MasterAdam, NARROW] == pytest.approx(0.97, abs=2**-8)
    assert ends[torch.optim.Adam, NARROW] == 1.0


def test_a_resumed_bf16_true_run_is_the_run(tmp_path):
    def trained(name, steps, path=None):
        keep = ModelCheckpoint(tmp_path, name, every_n_train_steps=steps)
        m = sit_module(student_lr=1e-4, auxiliary_lr=1e-4)
        fit(
            m,
            StudentEMA([0.5]),
            keep,
            precision="bf16-true",
            max_steps=steps,
            enable_checkpointing=True,
            ckpt_path=path,
        )
        return torch.load(tmp_path / f"{name}.ckpt", weights_only=True)

    straight = trained("straight", 4)
    trained("half", 2)
    resumed = trained("resumed", 4, tmp_path / "half.ckpt")
    for part in ("state_dict", "optimizer_states"):
        assert same(resumed[part], straight[part])
    masters, held = straight["optimizer_states"][0]["masters"], straight["state_dict"]
    narrow = [value for name, value in held.items() if name.startswith("student.")]
    assert all(
        torch.equal(master.bfloat16(), value)
        for master, value in zip(masters, narrow, strict=False)
    )
    assert any(
        not torch.equal(master, value.float())
        for master, value in zip(masters, narrow, strict=False)
    )
    student = FlowMap.from_checkpoint(tmp_path / "straight.ckpt", teacher=sit_module().teacher)
    assert student.sample(2).dtype == WIDE
    assert torch.equal(
        next(student.network.parameters()), held["averages.ema_0_5.backbone.net.pos_embed"]
    )
