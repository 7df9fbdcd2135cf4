"""FlowMapModule: every map method by settings; any-step FreeFlow."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freeflow_lightning import FlowMap, FlowMapModule, FreeFlowModule
from freeflow_lightning.callbacks import AlphaSchedule, ConfidentRegionWarmup, StudentEMA
from freeflow_lightning.flow import (
    CentralDifference,
    DataStates,
    FromPrior,
    Gap,
    LogitNormal,
    Pairs,
    Prior,
    Renoised,
    Samples,
    SortedPair,
    TeacherPath,
    ToData,
    Uniform,
    WithAtom,
    WithDiagonal,
    solve,
    training_generator,
)
from freeflow_lightning.nets import MLP
from freeflow_lightning.objectives import (
    ByDuration,
    ByGuidance,
    Consistency,
    Decay,
    DiscreteEulerian,
    DiscreteLagrangian,
    DiscretePrediction,
    Endpoint,
    Eulerian,
    Lagrangian,
    Normalise,
    Semigroup,
    Unweighted,
)
from freeflow_lightning.recipes import Correction
from freeflow_lightning.recipes.map_draws import FlowMapDraw, MapDraw, place_maps
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.teachers import GaussianMixtureTeacher
from freeflow_lightning.training.strategies import FSDP2
from tiny import (
    PLANE,
    fit,
    learned_teacher,
    mixture,
    mlp,
    same,
    shaken,
    weights,
    with_shaken_networks,
)

CENTRAL = CentralDifference(1e-2)


class Points(Samples):
    """Points whose place says their class: the first coordinate is 10 times it."""

    def __init__(self, shape=(2,), has_labels=True) -> None:
        self.shape, self.has_labels = shape, has_labels

    def draw(self, n, generator):
        labels = torch.randint(2, (n,), generator=generator)
        x = torch.randn(n, *self.shape, generator=generator)
        x[:, 0] = 10.0 * labels
        return x, labels if self.has_labels else None


LATER = WithAtom(Uniform(), 0.5, at=1.0)
METHODS = {
    "any-step FreeFlow": {"correction": Correction(0.25)},
    "corrected at later points": {"correction": Correction(0.25, starts=LATER)},
    "MeanFlow": {
        "objective": Eulerian(CENTRAL),
        "times": WithDiagonal(SortedPair()),
        "states": TeacherPath(4, per_path=2),
    },
    "MeanFlow on data": {
        "objective": Eulerian(CENTRAL),
        "times": SortedPair(),
        "states": DataStates(Points()),
    },
    "AYF-EMD": {
        "objective": Eulerian(CENTRAL, tangent=0.99),
        "times": SortedPair(),
        "weight": ByDuration(Normalise()),
    },
    "AYF-LMD": {"objective": Lagrangian(CENTRAL), "times": SortedPair(), "anchor_fraction": 0.25},
    "AlphaFlow": {"objective": DiscreteEulerian(), "times": SortedPair()},
    "PSD": {"objective": Semigroup(Uniform()), "times": SortedPair(), "anchor_fraction": 0.5},
    "CD": {"objective": Consistency(8), "times": ToData(Uniform()), "states": Renoised()},
    "KD": {
        "objective": Endpoint(4),
        "times": FromPrior(Uniform(1.0, 1.0)),
        "states": Prior(),
        "weight": Unweighted(),
    },
}
EXACT = {
    "MeanFlow": {"objective": Eulerian(), "times": SortedPair()},
    "TVM": {
        "objective": Lagrangian(full_gradient=True),
        "times": Gap(),
        "correction": Correction(0.25),
    },
    "TVM alone": {"objective": Lagrangian(full_gradient=True), "times": Gap()},
}
PRIOR = {"times": FromPrior(Uniform()), "states": Prior()}


def build(teacher=None, shake=True, **changes) -> FlowMapModule:
    settings = {"network": mlp(), "student_lr": 1e-2, "auxiliary_lr": 1e-2} | changes
    made = FlowMapModule(mixture() if teacher is None else teacher, **settings)
    return with_shaken_networks(made) if shake else made


def draws(m, size=16, counter=0):
    return m.draw(size, training_generator(0, 0, counter))


class Rows:
    """Rows that a network has seen."""

    def __init__(self, net: nn.Module) -> None:
        self.calls: list[tuple[int, bool]] = []
        net.register_forward_pre_hook(self)

    def __call__(self, net, inputs) -> None:
        self.calls.append((len(inputs[0]), torch.is_grad_enabled()))


# The algorithm


def test_the_student_starts_as_the_teacher_bit_for_bit():
    teacher = learned_teacher()
    m = build(teacher, shake=False, network=None)
    x, t, gamma = torch.randn(8, 2), torch.rand(8), torch.rand(8)
    condition = torch.arange(8) % 2
    for s in (t, t / 2, 0 * t):
        assert torch.equal(m.average(x, t, s, condition, gamma), teacher.velocity(x, t, condition))


def test_from_the_prior_it_is_freeflow():
    """The same rows, the same loss and gradients as FreeFlowModule's."""
    settings = {"guidance_range": (1.0, 2.0), "network": mlp(), "skip_idle_rows": False}
    free = FreeFlowModule(mixture(), prediction=DiscretePrediction(4, "heun"), **settings)
    form = DiscreteLagrangian(4, "heun")
    mine = FlowMapModule(mixture(), objective=form, correction=Correction(), **PRIOR, **settings)
    for m in (free, mine):
        for seed, network in enumerate(m.networks().values()):
            shaken(network, seed)
    p, c = draws(free, 32)
    one = torch.ones_like(p.delta)
    rows = MapDraw(p.z, p.condition, p.gamma, None, p.z, one, p.delta, form)
    a, b = free.loss(draws(free, 32)), mine.loss(FlowMapDraw(rows, c))
    torch.testing.assert_close(a.loss, b.loss)
    for name, other in {
        "prediction": "map",
        "correction": "correction",
        "auxiliary": "auxiliary",
    }.items():
        torch.testing.assert_close(a.residuals[name].error, b.residuals[other].error)
    gradients = [
        torch.autograd.grad(s.loss, list(m.parameters())) for s, m in ((a, free), (b, mine))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_output_times_the_weighted_error():
    m = build(learned_teacher(), objective=Lagrangian(), times=SortedPair(), weight=Decay(0.5))
    draw = draws(m)
    step = m.loss(draw)
    residual = step.residuals["map"]
    weight = (residual.error.square().mean(1) + 1e-4) ** -0.5
    by_hand = (residual.output * (weight[:, None] * residual.error)).sum() / 16
    wanted = torch.autograd.grad(by_hand, list(m.student.parameters()), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(step.loss, list(m.student.parameters())), wanted)


def test_later_points_are_corrected_by_hand():
    """Maps from x_t = f(z, 1, t) to data: Eqs. 11-12 at their samples, which move by t dF."""
    starts = Uniform(0.25, 0.75)
    m = build(
        learned_teacher(),
        correction=Correction(0.5, starts=starts),
        guidance_range=(1, 1),
        evaluation_guidance=1.0,
    )
    draw = draws(m)
    step, c = m.loss(draw), draw.correction
    assert 0.25 <= float(c.t.min()) < float(c.t.max()) <= 0.75
    one, t = torch.ones(8), c.t
    with torch.no_grad():
        x_t = c.z + (1 - t)[:, None] * m.average(c.z, one, t, c.condition, c.gamma)
    output = m.average(x_t, t, 0 * t, c.condition, c.gamma)
    x_0 = (x_t + t[:, None] * output).detach()
    x_r = (1 - c.r)[:, None] * x_0 + c.r[:, None] * c.n
    g = m.auxiliary(x_r, c.r, c.condition, gamma=c.gamma)
    delta_n = t[:, None] * (g - m.teacher.velocity(x_r, c.r, c.condition)).detach()
    torch.testing.assert_close(step.residuals["correction"].error, delta_n)
    torch.testing.assert_close(step.residuals["auxiliary"].error, (g - (x_0 - c.n)).detach())

    lam = step.scalars["correction/lambda"]
    maps = m.weight(step.residuals["map"], draw.map.delta, None).surrogate().sum()
    by_hand = maps + lam * (output * delta_n).sum()
    weights = list(m.student.parameters())
    wanted = torch.autograd.grad(by_hand / 16, weights, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(step.loss, weights), wanted)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_costs_what_it_says(name):
    m = build(learned_teacher(), skip_idle_rows=False, **METHODS[name])
    counts = {"student": Rows(m.student), "teacher": Rows(m.teacher)}
    if m.auxiliary is not None:
        counts["auxiliary"] = Rows(m.auxiliary)
    step = m.loss(draws(m))
    seen = {name: sum(rows for rows, _ in found.calls) / 16 for name, found in counts.items()}
    assert seen == m.evaluations_per_sample()
    assert [rows for rows, has_gradient in counts["student"].calls if has_gradient] == [16]
    assert not any(has_gradient for _, has_gradient in counts["teacher"].calls)
    step.loss.backward()
    assert all(
        p.grad is not None for network in m.networks().values() for p in network.parameters()
    )


@pytest.mark.parametrize("settings", [METHODS[name] for name in METHODS] + list(EXACT.values()))
def test_idle_rows_are_skipped_without_a_trace(settings):
    whole, fewer = (
        build(learned_teacher(), skip_idle_rows=skip, **settings) for skip in (False, True)
    )
    whole.t_c = fewer.t_c = 0.3
    drawn, some = draws(whole, 32), draws(fewer, 32)
    counts = Rows(whole.student), Rows(fewer.student)
    a, b = whole.loss(drawn), fewer.loss(some)
    torch.testing.assert_close(a.loss, b.loss)
    for one, other in zip(a.residuals.values(), b.residuals.values(), strict=True):
        torch.testing.assert_close(one.error, other.error, atol=1e-4, rtol=1e-4)
    evaluated = [sum(rows for rows, _ in found.calls) for found in counts]
    assert evaluated[1] <= evaluated[0]


def test_half_of_the_rows_start_at_the_prior_and_cost_no_state():
    m = build(learned_teacher())
    draw = draws(m, 64)
    count = Rows(m.student)
    m.loss(draw)
    off_prior = int((draw.map.t < 1).sum())
    assert 16 < off_prior < 48
    assert count.calls[0] == (off_prior, False)


def test_the_states_of_one_path_share_condition_and_guidance():
    m = build(
        learned_teacher(),
        objective=Lagrangian(),
        times=SortedPair(),
        states=TeacherPath(4, per_path=4),
    )
    draw = draws(m)
    assert len(draw.map.z) == len(draw.map.gamma) == 4
    maps, _ = place_maps(m, m.states, draw.map)
    assert torch.equal(maps.condition, draw.map.condition.repeat_interleave(4))
    with pytest.raises(ValueError, match="a multiple of states"):
        draws(m, 18)


def test_data_come_with_their_classes():
    m = build(learned_teacher(), **METHODS["MeanFlow on data"])
    draw = draws(m, 32).map
    assert torch.equal(draw.z[:, 0], 10.0 * draw.condition)
    assert not torch.equal(draw.z, draws(m, 32, counter=1).map.z)
    x = place_maps(m, m.states, draw)[0].x
    torch.testing.assert_close(x, (1 - draw.t)[:, None] * draw.z + draw.t[:, None] * draw.n)


@pytest.mark.parametrize(
    ("data", "said"),
    [(Points((3,)), r"shape \[2\], got \[3\]"), (Points(has_labels=False), "data with labels")],
)
def test_data_that_do_not_fit_the_teacher_are_refused(data, said):
    m = build(learned_teacher(), **METHODS["MeanFlow on data"] | {"states": DataStates(data)})
    with pytest.raises(ValueError, match=said):
        draws(m)


def test_the_weight_knows_the_guidance_scale():
    """TVM's 1 / gamma^2, of the map's rows and of its anchor's."""
    settings = {"objective": Lagrangian(CENTRAL), "times": Gap(), "anchor_fraction": 0.5}
    settings |= {"guidance_range": (2.0, 2.0), "evaluation_guidance": 2.0}
    plain, guided = (
        build(learned_teacher(), weight=weight, **settings)
        for weight in (Unweighted(), ByGuidance())
    )
    whole, quarter = (m.loss(draws(m)).loss for m in (plain, guided))
    torch.testing.assert_close(quarter, whole / 4)


def test_the_tangent_has_the_share_that_its_warmup_says():
    m = build(objective=Eulerian(CENTRAL, tangent=0.8), times=SortedPair())
    m.tangent_share = 0.5
    assert draws(m).map.objective.tangent == 0.4
    assert m.objective.tangent == 0.8


def test_times_start_at_the_prior_and_widen():
    m = build(**METHODS["corrected at later points"])
    for t_c in (1.0, 0.5):
        m.t_c = t_c
        rows, corrected = draws(m, 256)
        assert float((rows.t - rows.delta).min()) >= t_c - 1e-6
        assert float(corrected.t.min()) >= t_c - 1e-6
    assert float(rows.t.min()) < 0.6
    assert float(corrected.t.min()) < 0.6


# What is refused

JUMPY = {"network": MLP((2,), hidden_size=16, depth=2, num_classes=2, time_scale=1000.0)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": Eulerian(), **PRIOR}, "Eulerian on maps from the prior alone"),
        ({"objective": DiscreteEulerian(), **PRIOR}, "from the prior alone"),
        ({"objective": Semigroup()}, "set anchor_fraction"),
        ({"states": DataStates()}, "DataStates needs data"),
        ({"states": Prior()}, "starts maps elsewhere"),
        ({"times": FromPrior(Uniform())}, "StudentPath has no effect"),
        ({"anchor_fraction": 1.0}, "anchor_fraction"),
        ({"correction": Correction(starts=LATER), **PRIOR}, "FromPrior does not train both"),
        (
            {"correction": Correction(starts=LATER), "times": ToData(Uniform())},
            "ToData does not train both",
        ),
        (
            {"objective": Eulerian(CentralDifference()), "times": SortedPair(), **JUMPY},
            "embeds a large multiple of t",
        ),
    ],
)
def test_settings_that_cannot_train_the_map_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


class Dropped(MLP):
    """An MLP that drops a tenth of its states in training."""

    def __init__(self) -> None:
        super().__init__((2,), hidden_size=16, depth=1, num_classes=2)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, t, y=None):
        return super().forward(self.dropout(x), t, y)


@pytest.mark.parametrize(
    "objective", [DiscreteLagrangian(4), Eulerian(CENTRAL), DiscreteEulerian(), Consistency()]
)
def test_differences_refuse_dropout(objective):
    with pytest.raises(ValueError, match="the dropout in backbone"):
        build(objective=objective, times=SortedPair(), network=Dropped())
    build(objective=Lagrangian(), times=SortedPair(), network=Dropped())


@pytest.mark.parametrize(
    "objective", [Eulerian(), Lagrangian(), Lagrangian(CENTRAL), DiscreteEulerian()]
)
def test_a_network_of_1000_t_takes_what_holds_its_time_or_differentiates_it_exactly(objective):
    build(objective=objective, times=SortedPair(), **JUMPY)


def test_a_narrow_difference_of_1000_t_is_a_derivative():
    build(objective=Eulerian(CentralDifference(1e-4)), times=SortedPair(), **JUMPY)


@pytest.mark.parametrize("objective", [Eulerian(), Lagrangian(), Lagrangian(full_gradient=True)])
def test_forward_mode_is_refused_on_sharded_networks(objective):
    m = build(objective=objective, times=SortedPair())
    m._trainer = SimpleNamespace(strategy=FSDP2())
    with pytest.raises(
        ValueError, match="forward mode, which networks sharded by FSDP2 do not pass"
    ):
        m.configure_model()


# Runs


@pytest.mark.parametrize("name", ["corrected at later points", "MeanFlow on data", "PSD"])
def test_a_resumed_run_ends_where_the_whole_one_does(name, tmp_path):
    def train(steps, **options):
        m = build(learned_teacher(), **METHODS[name])
        schedules = [AlphaSchedule(2, 4)] if m.auxiliary is not None else []
        callbacks = [StudentEMA([0.9]), ConfidentRegionWarmup(6), *schedules]
        return m, fit(m, *callbacks, max_steps=steps, **options)

    m, _ = train(8)
    _, half = train(5)
    half.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = train(8, ckpt_path=tmp_path / "half.ckpt")
    assert m.t_c == again.t_c == 0.0
    assert same(weights(m), weights(again))


CONFIG = {
    "model": {
        "class_path": "FlowMapModule",
        "init_args": {
            **PLANE,
            "correction": {
                "fraction": 0.5,
                "r": {"class_path": "LogitNormal", "init_args": {"mean": 0.0, "std": 1.0}},
            },
        },
    },
    "data": {
        "class_path": "PriorDataModule",
        "init_args": {"batch_size": 8, "length": 4, "val_samples": 8},
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 4,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
}
METRICS = (
    "map/residual",
    "map/residual_by_t/0.88-1.00",
    "correction/lambda",
    "auxiliary/loss",
    "map/t_c",
)


def test_a_config_trains_a_student_that_is_exported_with_its_pairs(freeflow, tmp_path):
    Path("any.yaml").write_text(json.dumps(CONFIG))
    code, _, error = freeflow("fit", "--config", "any.yaml")
    assert code == 0, error
    metrics = Path("runs/any/version_0/metrics.csv").read_text()
    assert all(name in metrics for name in METRICS)
    student = FlowMap.from_checkpoint("runs/any")
    assert FlowMapModule.load_from_checkpoint("runs/any").correction == Correction(
        0.5, r=LogitNormal(0.0, 1.0)
    )
    assert student.pairs is Pairs.ANY_TO_ANY
    student.save_pretrained(tmp_path / "exported")
    again = FlowMap.from_pretrained(tmp_path / "exported")
    assert again.pairs is Pairs.ANY_TO_ANY
    assert torch.equal(again.sample(5, steps=3), student.sample(5, steps=3))


def test_pairs_say_what_was_trained():
    trained = {name: build(**settings).pairs for name, settings in METHODS.items()}
    assert trained.pop("CD") is Pairs.ANY_TO_DATA
    assert trained.pop("KD") is Pairs.PRIOR_TO_ANY
    assert set(trained.values()) == {Pairs.ANY_TO_ANY}


# What it is for

TEACHER = GaussianMixtureTeacher([[1.2, 0.0], [-1.2, 0.5], [0.0, 1.2]], 0.4)
SETTINGS = {
    "guidance_range": (1.0, 1.0),
    "evaluation_guidance": 1.0,
    "student_lr": 5e-3,
    "auxiliary_lr": 5e-3,
}


def errors_after(m, steps=250) -> list[float]:
    """Distance to the exact end of the path at 1, 2 and 4 chained steps, after training."""
    optimizer = m.configure_optimizers()
    for n in range(steps):
        m.t_c, m.alpha = max(0.0, 1 - n / 10), 0.3 * min(1.0, n / 20)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - n / steps)
        step = m.loss(draws(m, 64, n))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    z = torch.randn(256, 2, generator=torch.Generator().manual_seed(9))
    exact = solve(TEACHER.velocity, z, steps=32)
    f = FlowMap(
        m.student, TEACHER, about={"pairs": "any to any"}
    )  # of FreeFlow too, to see what it would give
    return [
        float((f.jump(z, None, 1.0, Jumps(k)) - exact).square().mean().sqrt()) for k in (1, 2, 4)
    ]


@pytest.mark.slow
def test_any_step_freeflow_halves_the_error_where_chained_freeflow_falls_apart():
    torch.manual_seed(0)
    networks = [MLP((2,), hidden_size=48, depth=2) for _ in range(2)]
    any_step = FlowMapModule(TEACHER, networks[0], correction=Correction(), **SETTINGS)
    start, any_step = errors_after(any_step, 0), errors_after(any_step)
    free = errors_after(FreeFlowModule(TEACHER, networks[1], **SETTINGS))
    assert all(error < before / 2 for error, before in zip(any_step, start, strict=True))
    assert any_step[1] < free[1] / 2
    assert any_step[2] < free[2] / 4
