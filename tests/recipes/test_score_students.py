"""Students of score and noise networks: Adam's step is in units of u, as that of a student of a velocity network."""

import pytest
import torch
from torch import nn

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.flow import training_generator
from freeflow_lightning.nets import MLP
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import (
    DDPMTeacher,
    EDMTeacher,
    PathTeacher,
    VarianceExplodingPath,
    VelocityTeacher,
)
from tiny import fit, mixture, mlp


class Core(nn.Module):
    """An MLP less itself as it was made: weights that are nowhere 0 and an output that is, until it trains."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = MLP((2,), hidden_size=32, depth=2, num_classes=2)
        for name, value in self.net.named_parameters():
            self.register_buffer(name.replace(".", "_"), value.detach().clone())

    def forward(self, x, t, condition):
        then = {
            name: getattr(self, name.replace(".", "_")) for name, _ in self.net.named_parameters()
        }
        return self.net(x, t, condition) - torch.func.functional_call(
            self.net, then, (x, t, condition)
        )


class Flow(nn.Module):
    """The mixture's exact velocity, and what is learned."""

    def __init__(self):
        super().__init__()
        self.core, self.exact = Core(), mixture()

    def forward(self, x, t, condition):
        return self.exact(x, t, condition) + self.core(x, t, condition)


class Noise(nn.Module):
    """E[noise | y] of the exact mixture on DDPM's path, and what is learned, in units of the noise."""

    def __init__(self):
        super().__init__()
        self.core, self.exact = Core(), mixture()
        self.abars = DDPMTeacher(mlp(), (2,)).function.path.abars.float()

    def forward(self, y, k, condition):
        low = k.floor().long().clamp(max=len(self.abars) - 2)
        log_snr = (self.abars / (1 - self.abars)).log()
        sigma = (-torch.lerp(log_snr[low], log_snr[low + 1], k - low) / 2).exp()
        t = sigma / (1 + sigma)
        x = y * (t**2 + (1 - t) ** 2).sqrt()[:, None]
        noise = x - (1 - t)[:, None] * self.exact(x, t, condition)
        return noise + self.core(y, t, condition)


SETTINGS = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0}


def velocity_student(**changes):
    return FreeFlowModule(
        VelocityTeacher(Flow(), (2,), 2), time_module="core.net.t_embedder", **SETTINGS | changes
    )


def noise_student(**changes):
    teacher = DDPMTeacher(Noise(), (2,), num_classes=2)
    return FreeFlowModule(teacher, time_module="net.core.net.t_embedder", **SETTINGS | changes)


def batches(module, count, first=0):
    for n in range(first, first + count):
        yield module.draw(64, training_generator(0, 0, n))


def train(module, steps):
    optimizer = module.configure_optimizers()
    for draws in batches(module, steps):
        optimizer.zero_grad()
        module.loss(draws).loss.backward()
        optimizer.step()
    return module


def samples(module):
    z, condition = module.teacher.draw_indexed(torch.arange(256), seed=5, stream="test")
    with torch.no_grad():
        return z, condition, module.generate(z, condition)


def error(module):
    """Mean relative distance of the student's samples to the teacher's."""
    z, condition, drawn = samples(module)
    with torch.no_grad():
        truth = TeacherSampler(module.teacher, "heun", 32)(z, condition)
    return float(((drawn - truth).norm(dim=1) / truth.norm(dim=1)).mean())


def test_the_two_teachers_are_one():
    x, t, c = 2 * torch.randn(64, 2), torch.rand(64) * 0.97 + 0.01, torch.randint(3, (64,))
    assert torch.allclose(
        noise_student().teacher(x, t, c), velocity_student().teacher(x, t, c), atol=2e-3
    )


@pytest.mark.parametrize("steps", [1, 20])
def test_a_student_of_noise_moves_as_far_in_u_as_one_of_velocities(steps):
    """Not only as far: by the same vectors, to 2 %. With an undivided rate it would be 157 times as far."""
    moved = []
    for make in (velocity_student, noise_student):
        module = make(student_lr=1e-4, correction_fraction=0.0)
        start = samples(module)[2]
        moved.append(samples(train(module, steps))[2] - start)
    assert float(moved[0].norm()) > 0.01
    assert float((moved[0] - moved[1]).norm()) < 0.02 * float(moved[0].norm())


def test_rates_of_velocities_train_a_student_of_noise():
    """As it was, with the whole rate, the samples are static: further from the teacher's than at the start."""
    made = noise_student(student_lr=3e-3, auxiliary_lr=3e-3)
    start = error(made)
    assert error(train(made, 40)) < 0.9 * start
    before = noise_student(student_lr=3e-3, auxiliary_lr=3e-3)
    before.student_scale = 1.0
    assert error(train(before, 40)) > 3 * start


def test_the_gradient_is_the_product_with_the_raw_output():
    """Eqs. 9 and 11 for a parameterisation of F: the raw output times the error, so that eps and clipping keep their units."""
    module = noise_student()
    p, c = next(batches(module, 1))
    raw = []
    module.student.backbone.net.register_forward_hook(
        lambda net, inputs, output: raw.append(output)
    )
    step = module.loss((p, c))
    rows = (
        raw[0] if raw[0].requires_grad else next(output for output in raw if output.requires_grad)
    )
    weighted = (
        step.residuals["prediction"].error
        / (step.residuals["prediction"].mean_square() + 1e-4)[:, None]
    )
    correction = (
        step.scalars["correction/lambda"]
        * step.residuals["correction"].error
        / module.teacher.difference_scale(c.r)[:, None]
    )
    product = -(rows * torch.cat([weighted, correction])).sum() / len(
        rows
    )  # u falls as the noise rises
    weights = list(module.student.backbone.net.core.net.parameters())
    expected = torch.autograd.grad(product, weights, retain_graph=True)
    found = torch.autograd.grad(step.loss, weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6 + 1e-3 * float(b.abs().max()))


SCALES = {
    "noise": (lambda: DDPMTeacher(mlp(), (2,)), 157.4),
    "noise, t_max": (lambda: DDPMTeacher(mlp(), (2,), t_max=0.97), 32.35),
    "v": (lambda: DDPMTeacher(mlp(), (2,), "v_prediction"), 1.0),
    "data": (lambda: DDPMTeacher(mlp(), (2,), "sample"), 1.0),
    "score": (lambda: PathTeacher(mlp(), VarianceExplodingPath(), "score", (2,)), 80.0),
    "noise to sigma 80": (lambda: PathTeacher(mlp(), VarianceExplodingPath(), "noise", (2,)), 80.0),
    "EDM": (lambda: EDMTeacher(mlp(), (2,), data_scale=2), 1.0),
    "velocity": (lambda: VelocityTeacher(mlp(), (2,)), 1.0),
}


@pytest.mark.parametrize("kind", SCALES)
def test_the_rate_is_divided_by_what_the_raw_output_is_worth(kind):
    make, scale = SCALES[kind]
    groups = (
        FreeFlowModule(make(), student_lr=3e-5, auxiliary_lr=1e-4)
        .configure_optimizers()
        .param_groups
    )
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["student"] == pytest.approx(3e-5 / scale, rel=1e-3)
    assert rates["auxiliary"] == 1e-4
    if kind == "velocity":
        assert rates["student"] == 3e-5


def test_a_network_of_ones_own_is_not_divided():
    """It predicts u itself, whatever its teacher predicts."""
    module = FreeFlowModule(SCALES["noise"][0](), mlp(), student_lr=3e-5)
    assert module.configure_optimizers().param_groups[0]["lr"] == 3e-5


def test_a_scale_that_is_no_scale_is_refused():
    teacher = SCALES["velocity"][0]()
    teacher.output_scale = lambda t: 0 * t
    with pytest.raises(
        ValueError, match=r"output_scale\(1\) of the teacher to be finite and above 0, got 0"
    ):
        FreeFlowModule(teacher).configure_optimizers()


def test_a_run_that_is_resumed_with_another_rate_takes_it_divided(tmp_path):
    quick = {"correction_fraction": 0.0}
    trainer = fit(noise_student(student_lr=1e-3, **quick), max_steps=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = noise_student(student_lr=2e-3, **quick)
    resumed = fit(again, max_steps=3, ckpt_path=tmp_path / "a.ckpt")
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(2e-3 / 157.4, rel=1e-3)
