"""PosteriorModule: the inner map of a posterior against its closed form; costs, refusals, runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from freeflow_lightning import FlowMap, PosteriorModule
from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.flow import (
    CentralDifference,
    FromPrior,
    Pairs,
    SortedPair,
    Uniform,
    glass,
    renoise,
    solve,
)
from freeflow_lightning.nets import MLP, SecondState, StateConditioned
from freeflow_lightning.objectives import DiscreteEulerian, Eulerian, Lagrangian, Semigroup
from freeflow_lightning.recipes import Tilt
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.students.export.sample_graph import SampleGraph
from freeflow_lightning.teachers import GaussianMixtureTeacher
from recipes.test_flow_map import Rows, draws
from tiny import (
    PLANE,
    by_arguments_and_by_recipe,
    fit,
    learned_teacher,
    mixture,
    mlp,
    same,
    weights,
    with_shaken_networks,
)

CENTRAL = CentralDifference(1e-2)
FORMS = {
    "published": {},
    "preconditioned": {"second_state": SecondState(preconditioned=True)},
    "differences": {"objective": Eulerian(CENTRAL)},
    "Lagrangian": {"objective": Lagrangian(CENTRAL)},
    "discrete": {"objective": DiscreteEulerian()},
    "Semigroup": {"objective": Semigroup(Uniform())},
    "full gradient": {"objective": Lagrangian(full_gradient=True)},
    "maps alone": {"diagonal_fraction": 0.0},
}


def build(teacher=None, shake=True, **changes) -> PosteriorModule:
    settings = {"network": mlp(), "student_lr": 1e-2} | changes
    made = PosteriorModule(mixture() if teacher is None else teacher, **settings)
    return with_shaken_networks(made) if shake else made


# The algorithm


@pytest.mark.parametrize("preconditioned", [False, True])
def test_at_the_prior_the_student_starts_as_the_teacher(preconditioned):
    teacher = learned_teacher()
    second = SecondState(preconditioned=preconditioned)
    m = build(teacher, shake=False, network=None, second_state=second)
    x, s, gamma, labels = torch.randn(8, 2), torch.rand(8), torch.rand(8), torch.arange(8) % 2
    for r in (s, s / 2):
        seen = m.average(x, s, r, labels, gamma)
        torch.testing.assert_close(seen, teacher.velocity(x, s, labels))


def test_preconditioned_the_diagonal_starts_without_error():
    second = SecondState(preconditioned=True)
    settings = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0, "second_state": second}
    m = build(learned_teacher(), shake=False, network=None, **settings)
    residuals = m.loss(draws(m)).residuals
    assert float(residuals["diagonal"].error.abs().max()) == 0
    assert float(residuals["map"].error.abs().max()) > 0.01


class ExactPosterior(nn.Module):
    """The average inner velocity of the posterior of one Gaussian, a Gaussian again (closed form)."""

    def __init__(self, teacher: GaussianMixtureTeacher, offset: float = 0.0) -> None:
        super().__init__()
        self.posterior, self.offset = teacher.posterior, offset

    def forward(self, y, s, condition=None, *, state=None, t_state=None, delta, gamma) -> Tensor:
        one = torch.ones_like(s)
        state, t = (torch.zeros_like(y), one) if state is None else (state, t_state)
        law = self.posterior(state, t)
        mean, std, r = law.means[:, 0], law.stds[:, :1], (s - delta)[:, None]
        s = s[:, None]
        at = lambda time: ((1 - time) ** 2 * std**2 + time**2).sqrt()
        slope = ((s + r) * (1 + std**2) - 2 * std**2) / ((at(s) + at(r)) * at(s))
        return mean - slope * (y - (1 - s) * mean) + self.offset * y.sin()


@pytest.mark.parametrize("name", FORMS)
def test_the_residuals_vanish_at_the_exact_posterior_map_and_nowhere_else(name, monkeypatch):
    if name in ("differences", "Lagrangian"):
        pytest.skip("a difference is not exact")
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    teacher = GaussianMixtureTeacher(torch.tensor([[0.8, -0.4]], dtype=torch.float64), 0.6)
    changes = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0} | FORMS[name]
    if name == "discrete":
        changes["objective"] = DiscreteEulerian(0.001, "rk4")
    m = build(teacher, network=MLP((2,), hidden_size=16, depth=1), **changes)
    sizes = []
    for offset in (0.0, 0.1):
        m.student = ExactPosterior(teacher, offset)
        draw = draws(m, 64)
        draw = draw._replace(
            **{k: v.double() for k, v in draw._asdict().items() if k in "tsdelta" or k == "gamma"}
        )
        errors = [residual.error for residual in m.loss(draw).residuals.values()]
        sizes.append([float(error.square().mean().sqrt()) for error in errors])
    tolerance = 1e-6 if name == "discrete" else 1e-12
    assert max(sizes[0]) < tolerance
    assert min(sizes[1]) > (5e-3 if name == "Semigroup" else 1e-2)


@pytest.mark.parametrize("name", FORMS)
def test_a_step_costs_what_it_says(name):
    m = build(learned_teacher(), **FORMS[name])
    counts = {"student": Rows(m.student), "teacher": Rows(m.teacher)}
    step = m.loss(draws(m))
    seen = {name: sum(rows for rows, _ in found.calls) / 16 for name, found in counts.items()}
    said = m.evaluations_per_sample()
    assert seen["teacher"] == said["teacher"]
    if not m.objective.uses_dual_numbers:  # an exact derivative is one call that costs two
        assert seen["student"] == said["student"]
    assert not any(has_gradient for _, has_gradient in counts["teacher"].calls)
    step.loss.backward()
    assert all(p.grad is not None for p in m.student.parameters())


def test_states_of_the_prior_have_no_effect_and_others_have():
    m = build(learned_teacher())
    draw = draws(m)
    at_prior = draw._replace(t=torch.ones_like(draw.t))
    moved = [d._replace(n=d.n + 1) for d in (at_prior, draw)]
    losses = [float(m.loss(d).loss) for d in (at_prior, moved[0], draw, moved[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] != pytest.approx(losses[3], rel=1e-5)


# Fine-tuning by a reward


def test_a_tilt_s_errors_vanish_in_the_mean_at_the_tilted_posterior_and_not_at_the_teacher_s():
    """Of N(m_k, s^2) with weights w_k, <a, x0> makes N(m_k + s^2 a, s^2) and w_k exp <a, m_k>."""
    a, means = torch.tensor([1.0, -1.0]), torch.tensor([[0.8, -0.4], [-0.6, 0.5]])
    shares = torch.tensor([0.4, 0.6])
    teacher = GaussianMixtureTeacher(means, 0.6, weights=shares)
    shares = shares * (means @ a).exp()
    tilted = GaussianMixtureTeacher(means + 0.36 * a, 0.6, weights=shares / shares.sum())
    tilt = Tilt(lambda x0, condition: x0 @ a, steps=8)
    n = 20000
    e = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    y, x = torch.tensor([[0.3, 0.5]]).expand(n, 2), torch.tensor([[0.2, -0.6]]).expand(n, 2)
    s, t = torch.full((n,), 0.6), torch.full((n,), 0.7)
    sizes = []
    for law in (tilted, teacher):
        V = glass(law.velocity, y, s, x, t)
        error = tilt.residual(V, teacher.velocity, e, y, s, x, t, None).error
        sizes.append((error.mean(0) / error.std(0) * n**0.5).abs().max())
    assert sizes[0] < 4
    assert sizes[1] > 20


def test_a_trained_student_is_tilted_by_going_on_with_a_reward(tmp_path):
    first = fit(build(learned_teacher()), max_steps=2)
    first.save_checkpoint(tmp_path / "trained.ckpt")
    tilt = Tilt(lambda x0, condition: x0[:, 0], steps=2)
    m = build(learned_teacher(), tilt=tilt, objective=Eulerian(CENTRAL))
    fit(m, max_steps=4, ckpt_path=tmp_path / "trained.ckpt")
    counts = {"student": Rows(m.student), "teacher": Rows(m.teacher)}
    m.loss(draws(m))
    seen = {name: sum(rows for rows, _ in found.calls) / 16 for name, found in counts.items()}
    assert seen == m.evaluations_per_sample()


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"times": FromPrior(Uniform())}, "Eulerian on inner maps from s = 1 alone"),
        ({"objective": Semigroup(), "diagonal_fraction": 0.0}, "set diagonal_fraction"),
        ({"diagonal_fraction": 1.0}, "diagonal_fraction"),
        ({"diagonal_fraction": 0.0, "tilt": Tilt(len)}, "set diagonal_fraction above 0"),
        ({"second_state": SecondState("nowhere")}, "'nowhere' is not a module of MLP"),
    ],
)
def test_settings_that_cannot_train_the_map_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


# Runs


@pytest.mark.parametrize("name", ["differences", "preconditioned"])
def test_a_resumed_run_ends_where_the_whole_one_does(name, tmp_path):
    def train(steps, **options):
        m = build(learned_teacher(), **FORMS[name])
        return m, fit(m, StudentEMA([0.9]), max_steps=steps, **options)

    m, _ = train(6)
    _, half = train(3)
    half.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = train(6, ckpt_path=tmp_path / "half.ckpt")
    assert isinstance(again.student, StateConditioned)
    assert same(weights(m), weights(again))


CONFIG = {
    "model": {
        "class_path": "PosteriorModule",
        "init_args": {
            **PLANE,
            "second_state": {"preconditioned": True},
        },
    },
    "data": {
        "class_path": "PriorDataModule",
        "init_args": {"batch_size": 8, "length": 4, "val_samples": 8},
    },
    "trainer": {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
}


def test_the_student_of_a_run_draws_posteriors_and_comes_back_from_a_folder(freeflow):
    Path("posterior.yaml").write_text(json.dumps(CONFIG))
    code, _, error = freeflow("fit", "--config", "posterior.yaml")
    assert code == 0, error
    student, again = by_arguments_and_by_recipe("runs/posterior")
    labels, x = torch.tensor([0, 1, 1]), torch.randn(3, 2)
    assert again.about == student.about
    assert torch.equal(again.posterior(x, 0.5, 4, labels), student.posterior(x, 0.5, 4, labels))
    drawn = student.posterior(x, 0.5, 4, labels, steps=2)
    assert drawn.shape == (4, 3, 2)
    assert torch.equal(drawn[:2, :2], student.posterior(x[:2], 0.5, 2, labels[:2], steps=2))
    assert not torch.equal(drawn, student.posterior(x, 0.9, 4, labels, steps=2))
    assert student.pairs is Pairs.POSTERIORS
    kernels = [student.sample(3, labels, steps=k, sampler="kernel") for k in (1, 3)]
    assert torch.equal(kernels[0], student.sample(3, labels))
    z, _ = student.teacher.draw_indexed(torch.arange(3), seed=0, stream="samples")
    graph = SampleGraph(student.network, jumps=Jumps(3, "kernel"))
    torch.testing.assert_close(graph(z, torch.full((3,), 1.5), labels), kernels[1])
    student.save_pretrained("exported")
    again = FlowMap.from_pretrained("exported")
    assert torch.equal(again.posterior(x, 0.5, 4, labels, steps=2), drawn)
    with pytest.raises(ValueError, match="expected t to be a finite number from 0 to 1"):
        student.posterior(x, 1.5, 1, labels)
    again.about["starts"] = [1.0, 0.6]
    with pytest.raises(ValueError, match=r"draws were trained at the times \[1.0, 0.6\] alone"):
        again.posterior(x, 0.5, 4, labels, steps=2)
    again.about |= {"starts": None, "pairs": Pairs.POSTERIORS_TO_DATA}
    with pytest.raises(ValueError, match="were trained to data alone: expected steps 1, got 2"):
        again.posterior(x, 0.5, 4, labels, steps=2)


def test_only_a_student_with_a_second_state_draws_posteriors(checkpoint):
    student = FlowMap.from_checkpoint(checkpoint)
    x = torch.randn(2, *student.teacher.sample_shape)
    with pytest.raises(ValueError, match="that PosteriorModule has trained"):
        student.posterior(x, 0.5, 1, torch.tensor([0, 1]))


@pytest.mark.slow
def test_a_short_training_reaches_the_posterior_without_data():
    """W1 to the exact posterior, at one and at four inner steps, far below that of the noise."""
    teacher = GaussianMixtureTeacher([[1.2], [-1.0], [0.1]], [0.25, 0.4, 0.15], [0.45, 0.35, 0.2])
    torch.manual_seed(0)
    network = MLP((1,), hidden_size=48, depth=2)
    guidance = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0}
    changes = {"objective": Eulerian(CENTRAL), "times": SortedPair(Uniform())}
    m = build(teacher, False, network=network, student_lr=3e-3, **guidance, **changes)
    optimizer = m.configure_optimizers()
    for step in range(500):
        optimizer.zero_grad()
        m.loss(draws(m, 256, step)).loss.backward()
        optimizer.step()
    for t in (0.3, 0.6, 0.9, 1.0):
        noise, point, one, four = distances(m, teacher, t)
        assert one < 0.45 * min(noise, point)
        assert four < 0.35 * min(noise, point)


@torch.no_grad()
def distances(m, teacher, t, n=1000):
    """Mean W1 to p(x0 | x_t) over states: of noise, of the one point that the teacher's own ODE
    goes to, of one step and of four.
    """
    g = torch.Generator().manual_seed(5)
    found = []
    for _ in range(6):
        time = torch.tensor([t])
        x = renoise(teacher.sample(1, g), torch.randn(1, 1, generator=g), time)
        law = teacher.posterior(x, time)
        k = torch.multinomial(law.log_weights.exp()[0], n, True, generator=g)
        exact = law.means[0, k, 0] + law.stds[0, k] * torch.randn(n, generator=g)
        e = torch.randn(n, 1, generator=g)
        point = solve(teacher.velocity, x, grid=torch.linspace(t, 0, 33)).expand_as(e)
        rolled = [e, point, rollout(m, e, x, t, 1), rollout(m, e, x, t, 4)]
        found.append([(y[:, 0].sort().values - exact.sort().values).abs().mean() for y in rolled])
    return torch.tensor(found).mean(0).tolist()


def rollout(m, y, x, t, steps):
    n = len(y)
    full = lambda value: torch.full((n,), float(value))
    for i in range(steps):
        state = {"state": x.expand(n, 1), "t_state": full(t), "gamma": full(1)}
        y = y + m.student(y, full(1 - i / steps), None, delta=full(1 / steps), **state) / steps
    return y
