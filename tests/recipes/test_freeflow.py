import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.flow import (
    CentralDifference,
    ForwardDifference,
    LogitNormal,
    WithAtom,
    training_generator,
)
from freeflow_lightning.nets import MLP
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction
from freeflow_lightning.teachers import (
    GaussianMixtureTeacher,
    SiTTeacher,
    SiTVelocity,
    Teacher,
    save_sit,
)
from freeflow_lightning.training.finite import NonFiniteError
from nets.random_weights import tiny_sit
from tiny import data, fit, learned_teacher, mixture, mlp, module, same, trainer, weights


def draws(m, size=16, counter=0, rank=0):
    return m.draw(size, training_generator(0, rank, counter))


class Calls:
    """Rows of each call of a network, and whether gradients were on."""

    def __init__(self, net):
        self.rows, self.graded = [], []
        net.register_forward_pre_hook(self)

    def __call__(self, net, inputs):
        self.rows.append(len(inputs[0]))
        self.graded.append(torch.is_grad_enabled())


# What it costs


@pytest.mark.parametrize("guidance", [(1.0, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(
    "prediction",
    [
        DiscretePrediction(4, "heun"),
        DiscretePrediction(4, "euler"),
        DiscretePrediction(4, "rk4"),
        ContinuousPrediction(CentralDifference()),
        ContinuousPrediction(ForwardDifference()),
    ],
)
def test_one_forward_with_gradient_and_the_evaluations_that_are_promised(
    guidance, fraction, prediction
):
    m = module(
        prediction=prediction,
        guidance_range=guidance,
        evaluation_guidance=1.0,
        correction_fraction=fraction,
        skip_idle_rows=False,
    )
    calls = {"student": Calls(m.student), "teacher": Calls(m.teacher)}
    calls["auxiliary"] = Calls(m.auxiliary) if fraction else Calls(torch.nn.Identity())
    with torch.autocast(
        "cpu"
    ):  # which leaves no output unrounded for ForwardDifference to use again
        m.loss(draws(m))
    graded = [
        n for n, grad in zip(calls["student"].rows, calls["student"].graded, strict=True) if grad
    ]
    assert graded == [16]
    assert {name: sum(c.rows) / 16 for name, c in calls.items()} == m.evaluations_per_sample()
    assert not any(calls["teacher"].graded)
    assert len(calls["auxiliary"].rows) == (1 if fraction else 0)


FORMS = {
    "heun": DiscretePrediction(4, "heun"),
    "jvp": ContinuousPrediction(),
    "central": ContinuousPrediction(CentralDifference(0.1)),
    "forward": ContinuousPrediction(ForwardDifference(0.1)),
}


@pytest.mark.parametrize("t_c", [0.0, 0.6])
@pytest.mark.parametrize("form", FORMS)
def test_idle_rows_are_skipped_without_a_trace(form, t_c):
    """The rewrite is exact: residuals, loss and gradients are those of all evaluations; the calls are shorter."""
    whole, fewer = (
        module(learned_teacher(), prediction=FORMS[form], skip_idle_rows=skip)
        for skip in (False, True)
    )
    whole.t_c = fewer.t_c = t_c
    (p, c), some = draws(whole, 64), draws(fewer, 64)
    assert same((tuple(p)[:5], tuple(c)[:5]), (tuple(some[0])[:5], tuple(some[1])[:5]))
    calls = {"student": Calls(fewer.student), "teacher": Calls(fewer.teacher)}
    a, b = whole.loss((p, c)), fewer.loss(some)
    assert a.residuals.keys() == b.residuals.keys() == {"prediction", "correction", "auxiliary"}
    for name, mine in a.residuals.items():
        torch.testing.assert_close(mine.error, b.residuals[name].error, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.loss, b.loss)
    for mine, theirs in zip(
        *(torch.autograd.grad(s.loss, list(m.parameters())) for s, m in ((a, whole), (b, fewer))),
        strict=True,
    ):
        torch.testing.assert_close(
            mine, theirs, atol=1e-6 * float(mine.abs().max()) + 1e-9, rtol=1e-3
        )
    moved = int((p.delta >= (1 / 4 if form == "heun" else 1e-9)).sum())
    guided = int((c.r <= 0.4).sum())
    assert 0 < moved < 48
    assert 0 < guided < 16
    further = {"heun": 1, "jvp": 1, "central": 2, "forward": 1}[form]
    assert calls["student"].rows == [64] + [moved] * further
    assert calls["teacher"].rows == [2 * 48] * (2 if form == "heun" else 1) + [16 + guided]


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_step_without_moved_or_guided_rows(fraction, seed):
    """Every process calls its networks equally often: with one row at least."""
    still = WithAtom(LogitNormal(0.0, 1.0), 1.0)
    settings = {"delta": still, "guidance_interval": (0.0, 0.0), "correction_fraction": fraction}
    whole, fewer = (
        module(learned_teacher(), skip_idle_rows=skip, **settings) for skip in (False, True)
    )
    calls = {"student": Calls(fewer.student), "teacher": Calls(fewer.teacher)}
    torch.testing.assert_close(
        whole.loss(draws(whole, 4, seed)).loss, fewer.loss(draws(fewer, 4, seed)).loss
    )
    rows = round(4 * fraction)
    assert calls["student"].rows == [4] + [1] * (fraction < 1)
    assert calls["teacher"].rows == [2 * (4 - rows)] * 2 * (fraction < 1) + [rows] * (fraction > 0)


def test_without_guidance_the_teacher_has_one_branch():
    m = module(learned_teacher(), guidance_range=(1.0, 1.0), evaluation_guidance=1.0)
    calls = Calls(m.teacher)
    m.loss(draws(m))
    assert calls.rows == [12, 12, 4]


# What it computes


def by_hand(m, p, c, alpha, k):
    """The step once more, sample by sample, from the formulas of the paper; the loss whose gradient is the step's."""
    N, B = m.prediction.steps, len(p.z) + len(c.z)

    def one(x):
        return torch.tensor([float(x)])

    def F(z, delta, y, gamma):  # noqa: N802
        return m.student(z[None], one(1), y[None], delta=one(delta), gamma=one(gamma))[0]

    def u(x, t, y, gamma, lo, hi):
        x, t = x[None], float(t)
        cond = m.teacher.velocity(x, one(t), y[None])[0]
        null = m.teacher.velocity(x, one(t), torch.tensor([m.teacher.num_classes]))[0]
        g = float(gamma) if lo <= t <= hi else 1.0
        return g * cond + (1 - g) * null

    def confident(x, t, y, gamma, n):
        if t < m.t_c:
            shrink = (1 - m.t_c) / (1 - t)
            x, t = shrink * x + math.sqrt(m.t_c**2 - shrink**2 * t**2) * n, m.t_c
        return u(x, t, y, gamma, 0.0, 1.0)

    outputs, errors = [], []
    for b in range(len(p.z)):
        z, y, gamma = p.z[b], p.condition[b], p.gamma[b]
        n = p.n[b] if p.n is not None else torch.zeros_like(z)
        i = math.floor(float(p.delta[b]) * N)
        out = F(z, (i + 1) / N, y, gamma)
        with torch.no_grad():
            here = z + i / N * F(z, i / N, y, gamma)
            v_g = (z + (i + 1) / N * out - here) * N
            first = confident(here, 1 - i / N, y, gamma, n)
            second = confident(here + first / N, 1 - (i + 1) / N, y, gamma, n)
            error = v_g - (first + second) / 2
            errors.append(error / (error.square().mean() + 1e-4) ** k)
        outputs.append((out * errors[-1]).sum())
    loss_g = sum(outputs) / B

    products, gaps, fitted = [], [], []
    for b in range(len(c.z)):
        z, y, gamma, n, r = c.z[b], c.condition[b], c.gamma[b], c.n[b], float(c.r[b])
        out = F(z, 1, y, gamma)
        f = (z + out).detach()
        x_r = (1 - r) * f + r * n
        G = m.auxiliary(x_r[None], one(r), y[None], gamma=one(gamma))[0]
        lo, hi = m.guidance_interval
        gaps.append((G - u(x_r, r, y, gamma, lo, hi)).detach())
        products.append((out * gaps[-1]).sum())
        fitted.append((G - (f - n)).square().sum() / 2)
    norm_g, norm_n = (torch.stack([e.norm() for e in es]).mean() for es in (errors, gaps))
    lam = alpha * norm_g / (norm_n + 1e-6)
    return loss_g + lam * sum(products) / B + sum(fitted) / len(c.z)


@pytest.mark.parametrize("t_c", [0.0, 0.6])
@pytest.mark.parametrize("k", [1.0, 0.5])
def test_the_gradient_is_the_one_written_by_hand(t_c, k):
    m = module(residual_decay=k)
    m.t_c, m.alpha = t_c, 0.7
    p, c = draws(m)
    assert (p.n is None) == (t_c == 0)
    parameters = [q for q in m.parameters() if q.requires_grad]
    ours = torch.autograd.grad(m.loss((p, c)).loss, parameters)
    theirs = torch.autograd.grad(by_hand(m, p, c, 0.7, k), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-5 * float(b.abs().max()) + 1e-7)


def test_no_gradient_reaches_the_teacher():
    m = module(learned_teacher())
    assert not any(p.requires_grad for p in m.teacher.parameters())
    assert not m.teacher.training
    m.teacher.requires_grad_(True)
    grads = torch.autograd.grad(
        m.loss(draws(m)).loss, list(m.teacher.parameters()), allow_unused=True
    )
    assert grads == (None,) * len(grads)
    assert len(grads) > 5


def test_each_network_learns_from_its_own_losses_alone():
    m = module()
    step = m.loss(draws(m))
    student, auxiliary = (list(net.parameters()) for net in (m.student, m.auxiliary))

    def reached(loss, parameters):
        return [
            g is not None
            for g in torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        ]

    fitted = step.residuals["auxiliary"].surrogate().sum()
    for own in (
        step.residuals["prediction"].surrogate().sum(),
        step.scalars["correction/lambda"] * step.residuals["correction"].surrogate().sum(),
    ):
        assert all(reached(own, student))
        assert not any(reached(own, auxiliary))
    assert all(reached(fitted, auxiliary))
    assert not any(reached(fitted, student))
    assert not step.scalars["correction/lambda"].requires_grad


def test_alpha_zero_leaves_the_prediction_alone():
    m = module()
    m.alpha = 0.0
    p, c = draws(m)
    step = m.loss((p, c))
    parameters = list(m.student.parameters())
    alone = torch.autograd.grad(step.loss, parameters)
    other = m.loss(
        (p, c._replace(n=c.n + 1))
    )  # moves the correction's residual, not the prediction's
    assert not torch.equal(other.residuals["correction"].error, step.residuals["correction"].error)
    again = torch.autograd.grad(other.loss, parameters)
    assert all(map(torch.equal, alone, again))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_either_objective_and_both_train(fraction):
    m = module(correction_fraction=fraction)
    before = weights(m)
    fit(m, max_steps=3)
    after = weights(m)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(before)
    assert (m.auxiliary is None) == (fraction == 0)
    assert set(m.networks()) == ({"student", "auxiliary"} if fraction else {"student"})
    assert all(bool(torch.isfinite(value).all()) for value in after.values())


def test_both_objectives_bring_the_student_to_its_teacher():
    torch.manual_seed(0)
    m = module(network=MLP((2,), hidden_size=32, depth=1, num_classes=2, time_scale=10.0), shake=False, scalar_scale=10.0,
               guidance_range=(1.0, 1.0), evaluation_guidance=1.0, student_lr=2e-3, auxiliary_lr=4e-3)  # fmt: skip
    z, y = m.teacher.draw_indexed(torch.arange(256), seed=0, stream="test")
    from freeflow_lightning.sampling.teacher_sampler import TeacherSampler

    end = TeacherSampler(m.teacher)(z, y)

    def error():
        return float((m.generate(z, y) - end).norm(dim=1).mean())

    before = error()
    fit(m, max_steps=300, prior=data(batch_size=128, length=300), log_every_n_steps=1000)
    assert error() < 0.35 * before


def test_the_draw_is_a_function_of_its_generator():
    m = module(guidance_range=(1.0, 3.0))
    m.t_c = 0.5
    assert same(draws(m), draws(m))
    for other in (draws(m, counter=1), draws(m, rank=1)):
        assert not torch.isin(other[0].z, draws(m)[0].z).any()
    p, c = draws(m, 4000)
    assert (len(p.z), len(c.z)) == (3000, 1000)
    gamma = torch.cat([p.gamma, c.gamma])
    assert float(gamma.min()) >= 1
    assert float(gamma.max()) <= 3
    assert float(gamma.mean()) == pytest.approx(2.0, abs=0.05)
    assert float((p.delta == 0).float().mean()) == pytest.approx(0.1, abs=0.02)
    streams = torch.cat([x.flatten() for x in (p.z, p.n, c.z, c.n)])
    assert len(streams.unique()) > 0.999 * len(streams)  # float32 repeats itself now and then


# Where it starts


@pytest.mark.parametrize("convention", ["sit", "repa"])
def test_the_student_starts_as_its_teacher_bit_for_bit(tmp_path, convention):
    save_sit(tmp_path / "sit.safetensors", SiTVelocity(tiny_sit(), convention))
    m = FreeFlowModule(SiTTeacher(tmp_path / "sit.safetensors"))
    z, y = m.teacher.draw_indexed(torch.arange(4), seed=0, stream="test")
    one = torch.ones(4)
    u = m.teacher.velocity(z, one, y)
    assert torch.equal(m.student(z, one, y, delta=0 * one, gamma=one), u)
    assert torch.equal(
        m.student(z, one, y, delta=one / 2, gamma=2 * one), u
    )  # whatever delta and gamma: they start at 0
    assert torch.equal(m.auxiliary(z, one / 2, y, gamma=one), m.teacher.velocity(z, one / 2, y))
    assert u.abs().max() > 0.01
    owned = {id(p) for net in (m.student, m.auxiliary, m.teacher) for p in net.parameters()}
    assert len(owned) == sum(
        len(list(net.parameters())) for net in (m.student, m.auxiliary, m.teacher)
    )


class Wide(Teacher):
    sample_shape = (2,)

    def velocity(self, x, t, condition):
        return torch.zeros(len(x), 3)


def eight_classes():
    return GaussianMixtureTeacher(torch.eye(8)[:, :2].tolist(), 0.4, labels=list(range(8)))


class Unconditional(Teacher):
    sample_shape = (2,)

    def velocity(self, x, t, condition):
        return -x


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: module(Wide(), guidance_range=(1, 1), evaluation_guidance=1),
            r"Wide.velocity returned shape \[2, 3\]",
        ),
        (
            lambda: module(network=MLP((3,), 8, 1)),
            r"the student network fails on two states of shape \[2, 2\].*mat1",
        ),
        (
            lambda: module(eight_classes(), network=MLP((2,), 8, 1, num_classes=1)),
            r"student network fails .* conditions of shape \[2\]",
        ),
        (
            lambda: module(Unconditional()),
            r"Unconditional has no null condition.*guidance_range to \[1, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(build, message):
    with pytest.raises(ValueError, match=message):
        fit(build())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"evaluation_guidance": 3.0},
            "evaluation_guidance to be a finite number from 1.0 to 2.0, got 3.0",
        ),
        (
            {"guidance_range": (2.0, 1.0)},
            r"guidance_range to be two .* the smaller one first, got \[2.0, 1.0\]",
        ),
        ({"guidance_range": (-1.0, 2.0)}, "two finite numbers of at least 0"),
        (
            {"correction_fraction": 1.5},
            "correction_fraction to be a finite number from 0 to 1, got 1.5",
        ),
        ({"time_module": "nowhere"}, "'nowhere' is not a module of MLP"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FreeFlowModule(mixture(), mlp(), **arguments)


def test_a_teacher_without_a_network_says_what_to_give():
    with pytest.raises(
        ValueError, match=r"Unconditional has no network to start the student from: .*MLP"
    ):
        FreeFlowModule(Unconditional(), guidance_range=(1.0, 1.0), evaluation_guidance=1.0)


# When numbers go wrong


class Poison(Callback):
    """Puts NaN where asked once `step` optimizer steps are done, and remembers the weights of that moment."""

    def __init__(self, step, what):
        self.step, self.what, self.weights = step, what, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.weights = weights(pl_module)
            self.what(pl_module)


def nan_teacher(m):
    m.teacher.register_forward_hook(lambda net, inputs, output: output * torch.nan)


def nan_auxiliary(m):
    m.auxiliary.register_forward_hook(lambda net, inputs, output: output * torch.nan)


def nan_gradient(m):
    next(m.student.parameters()).register_hook(lambda grad: grad * torch.nan)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (nan_teacher, ["the prediction residual", "the correction residual"]),
        (nan_auxiliary, ["the correction residual", "the auxiliary residual", "the loss"]),
        (nan_gradient, ["gradient/student"]),
    ],
)
def test_a_number_that_is_not_finite_stops_the_run(tmp_path, what, named):
    m, poison = module(learned_teacher()), Poison(3, what)
    checkpoint = ModelCheckpoint(
        tmp_path, "good", every_n_train_steps=2, enable_version_counter=False
    )
    with pytest.raises(NonFiniteError) as caught:
        fit(m, poison, checkpoint, max_steps=6, prior=data(length=10), enable_checkpointing=True)
    message = str(caught.value)
    assert all(name in message for name in named)
    assert "not finite at step 3 (rank 0)" in message
    assert str(tmp_path / "good.ckpt") in message
    assert same(weights(m), poison.weights)
    assert all(bool(torch.isfinite(value).all()) for value in weights(m).values())
    if what is nan_gradient:
        assert "gradient/auxiliary" not in message


def test_no_checkpoint_yet_is_said():
    with pytest.raises(NonFiniteError, match=r"at step 0 .*none written yet"):
        fit(module(learned_teacher()), Poison(0, nan_teacher))


# Lightning's switches


class Gradients(Callback):
    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # before clipping
        self.norms.append({name: norm(net) for name, net in pl_module.networks().items()})

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step and any(p.grad is not None for p in pl_module.student.parameters()):
            self.clipped = {name: norm(net) for name, net in pl_module.networks().items()}


def norm(net):
    return float(
        torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
    )


def test_each_network_is_clipped_by_itself():
    m, seen = module(), Gradients()
    clip = 0.5
    applied = []
    original = m.configure_gradient_clipping

    def configure(*arguments, **named):
        original(*arguments, **named)
        applied.append({name: norm(net) for name, net in m.networks().items()})

    m.configure_gradient_clipping = configure
    run = fit(m, seen, max_steps=3, gradient_clip_val=clip)
    assert len(applied) == 3
    for before, after in zip(seen.norms, applied, strict=True):
        for name in ("student", "auxiliary"):
            assert after[name] == pytest.approx(min(before[name], clip), rel=1e-4)
    assert max(seen.norms[-1].values()) > clip
    logged = run.callback_metrics  # the norms before clipping
    assert float(logged["gradient/student"]) == pytest.approx(seen.norms[-1]["student"], rel=1e-5)
    assert float(logged["gradient/auxiliary"]) == pytest.approx(
        seen.norms[-1]["auxiliary"], rel=1e-5
    )


def test_clipping_by_value_is_refused():
    with pytest.raises(ValueError, match=r"gradient_clip_algorithm 'norm', got"):
        fit(module(), gradient_clip_val=1.0, gradient_clip_algorithm="value")


def test_accumulated_batches_draw_different_noise_and_are_one_step():
    m = module()
    drawn, original = [], m.draw

    def draw(size, generator):
        drawn.append(original(size, generator))
        return drawn[-1]

    m.draw = draw
    run = fit(m, max_steps=3, accumulate_grad_batches=2, prior=data(length=6))
    assert run.global_step == 3
    assert len(drawn) == 6
    z = torch.cat([p.z for p, _ in drawn])
    assert len(z.unique()) == z.numel()
    expected = [original(8, training_generator(0, 0, counter)) for counter in range(6)]
    assert same(drawn, expected)


def test_an_accumulated_step_is_the_mean_of_its_batches():
    whole, parts = module(correction_fraction=0.0), module(correction_fraction=0.0)
    draws_ = [draws(whole, 8, counter) for counter in (0, 1)]
    loss = sum(whole.loss(d).loss for d in draws_) / 2
    optimizer = whole.configure_optimizers()
    loss.backward()
    optimizer.step()
    fit(parts, max_steps=1, accumulate_grad_batches=2)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_is_logged():
    m = module()
    m.t_c = 0.25
    p, c = draws(m)
    run = fit(m, max_steps=1, prior=data(batch_size=16))
    step = module_step(p, c)
    logged = run.callback_metrics
    rms = step.residuals["prediction"].error.square().mean(1).sqrt()
    assert float(logged["prediction/residual"]) == pytest.approx(float(rms.mean()), rel=1e-5)
    low = rms[p.delta < 1 / 8]
    assert float(logged["prediction/residual_by_delta/0.00-0.12"]) == pytest.approx(
        float(low.mean()), rel=1e-5
    )
    by_r = [logged[f"correction/residual_by_r/{k / 8:.2f}-{(k + 1) / 8:.2f}"] for k in range(8)]
    filled = [bool(((c.r >= k / 8) & (c.r < (k + 1) / 8)).any()) for k in range(8)]
    assert [
        bool(torch.isfinite(x)) for x in by_r
    ] == filled  # a bin without samples is NaN, not the value of an earlier step
    assert float(logged["correction/residual"]) == pytest.approx(
        float(step.residuals["correction"].error.square().mean(1).sqrt().mean()), rel=1e-5
    )
    assert float(logged["auxiliary/loss"]) == pytest.approx(
        float(step.residuals["auxiliary"].error.square().mean()), rel=1e-5
    )
    assert float(logged["correction/lambda"]) == pytest.approx(
        float(step.scalars["correction/lambda"]), rel=1e-5
    )
    assert float(logged["correction/alpha"]) == pytest.approx(0.3)
    assert float(logged["prediction/t_c"]) == 0.25
    ratio = float(logged["speed/evaluations_per_s"] / logged["speed/samples_per_s"])
    assert ratio == pytest.approx(1 + 0.75 + 2 * (0.75 * 2 + 0.25) + 0.25, rel=1e-5)


def module_step(p, c):
    m = module()
    m.t_c = 0.25
    return m.loss((p, c))


def test_figures_are_made_for_logged_steps_alone():
    m = module()
    counted, original = [], m._log
    m._log = lambda *arguments: (counted.append(m.global_step), original(*arguments))
    fit(m, max_steps=7, log_every_n_steps=3, prior=data(length=7))
    assert counted == [2, 5]


def test_the_teacher_is_in_no_checkpoint_and_moves_with_the_module():
    m = module(learned_teacher())
    assert not [key for key in m.state_dict() if "frozen" in key or "teacher" in key]
    assert m.summary_rows()[0][0] == "teacher"
    m.train()
    assert not m.teacher.training
    m.double()
    assert next(m.teacher.parameters()).dtype == torch.float64
    assert trainer().validate(m.float(), data(val_samples=8), verbose=False) == [{}]
