"""DMDModule: several auxiliary updates for each of the student's; steps from the student's own states."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from freeflow_lightning import DMDModule, FlowMap
from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.flow import Pairs, Trained, Uniform, training_generator
from freeflow_lightning.objectives import ConstantWeight, DMDWeight, KLWeight
from recipes.test_flow_map import Rows
from tiny import PLANE, fit, learned_teacher, mixture, mlp, same, weights, with_shaken_networks

FOUR = (1.0, 0.75, 0.5, 0.25)


def build(teacher=None, shake=True, **changes) -> DMDModule:
    settings = {"network": mlp(), "student_lr": 1e-2, "auxiliary_lr": 1e-2} | changes
    made = DMDModule(mixture() if teacher is None else teacher, **settings)
    return with_shaken_networks(made) if shake else made


def draws(m, size=16, counter=0):
    return m.draw(size, training_generator(0, 0, counter))


def test_the_student_starts_as_the_teacher_bit_for_bit():
    teacher = learned_teacher()
    m = build(teacher, shake=False, network=None)
    x, t, gamma, labels = torch.randn(8, 2), torch.rand(8), torch.rand(8), torch.arange(8) % 2
    assert torch.equal(m.average(x, t, 0 * t, labels, gamma), teacher.velocity(x, t, labels))


@pytest.mark.parametrize("times", [(1.0,), FOUR])
def test_the_gradient_is_that_of_dmd_s_own_loss(times):
    """0.5 || x0 - sg(x0 - w (D_fake - D_real)) ||^2, the denoisers by hand, w = 1 / mean |x0 - D_real|."""
    m = build(learned_teacher(), times=times)
    draw = draws(m)
    got = torch.autograd.grad(m.loss(draw).loss, list(m.student.parameters()))

    z, condition, gamma, n, r = draw.rows[:5]
    t, x = torch.tensor(times)[draw.place], m._place(draw)
    x0 = x + t[:, None] * m.student(x, t, condition, delta=t, gamma=gamma)
    with torch.no_grad():
        x_r = (1 - r)[:, None] * x0 + r[:, None] * n
        real = x_r + r[:, None] * m.teacher_at(z, condition, gamma)(x_r, r)
        told = {"gamma": gamma} | ({"start": t} if len(times) > 1 else {})
        fake = x_r + r[:, None] * m.auxiliary(x_r, r, condition, **told)
        moved = x0 - (fake - real) / (x0 - real).abs().mean(1, keepdim=True)
    loss = 0.5 * (x0 - moved).square().sum() / len(z)
    wanted = torch.autograd.grad(loss, list(m.student.parameters()))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_each_row_starts_at_its_time_on_the_student_s_own_chain():
    m = build(learned_teacher(), times=FOUR, skip_idle_rows=False)
    draw = draws(m, 32)
    assert sorted(set(draw.place.tolist())) == [0, 1, 2, 3]
    placed, (z, condition, gamma, *_) = m._place(draw), draw.rows
    for row, place in enumerate(draw.place.tolist()):
        one = slice(row, row + 1)
        x = z[one]
        for k in range(place):
            t = torch.tensor([FOUR[k]])
            with torch.no_grad():
                end = x + t * m.student(x, t, condition[one], delta=t, gamma=gamma[one])
            x = (1 - FOUR[k + 1]) * end + FOUR[k + 1] * draw.renoise[k, one]
        torch.testing.assert_close(placed[one], x)


def test_idle_rows_are_skipped_without_a_trace():
    settings = {"times": FOUR, "guidance_interval": (0.0, 0.5)}
    whole, fewer = (build(learned_teacher(), skip_idle_rows=s, **settings) for s in (False, True))
    counts = [Rows(m.teacher) for m in (whole, fewer)] + [Rows(m.student) for m in (whole, fewer)]
    a, b = whole.loss(draws(whole, 32)), fewer.loss(draws(fewer, 32))
    torch.testing.assert_close(a.loss, b.loss)
    rows = [sum(rows for rows, _ in count.calls) for count in counts]
    assert rows[1] < rows[0]
    assert rows[3] < rows[2]


@pytest.mark.parametrize("times", [(1.0,), FOUR])
@pytest.mark.parametrize("guidance_range", [(1.0, 1.0), (1.0, 2.0)])
def test_a_turn_costs_what_it_says_and_moves_the_student_once(times, guidance_range):
    settings = {"guidance_range": guidance_range, "evaluation_guidance": 1.0}
    m = build(learned_teacher(), times=times, auxiliary_updates=3, skip_idle_rows=False, **settings)
    m.check_teacher = False
    counts = {
        "student": Rows(m.student),
        "teacher": Rows(m.teacher),
        "auxiliary": Rows(m.auxiliary),
    }
    m.setup = lambda stage: None  # which asks everything once
    starts = [weights(m.student)]

    class Watch(StudentEMA):
        def on_train_batch_end(self, *_):
            starts.append(weights(m.student))

    fit(m, Watch([0.9]), max_steps=6)
    seen = {name: sum(rows for rows, _ in count.calls) / (6 * 8) for name, count in counts.items()}
    assert seen == pytest.approx(m.evaluations_per_sample())
    moved = [not same(a, b) for a, b in pairwise(starts)]
    assert moved == [False, False, True] * 2
    with_gradient = [rows for rows, has_gradient in counts["student"].calls if has_gradient]
    assert len(with_gradient) == 2


def test_the_weights_by_hand():
    x0, x_r, u = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    r = torch.tensor([0.25])  # D = (0.5, 1), |x0 - D| = (0.5, 2)
    assert float(DMDWeight()(x0, x_r, u, r)) == pytest.approx(0.25 / 1.25)
    assert float(DMDWeight(10.0)(x0, x_r, u, r)) == pytest.approx(0.025)
    assert float(KLWeight()(x0, x_r, u, r)) == pytest.approx(0.75**2 / 0.25)
    assert float(ConstantWeight()(x0, x_r, u, r)) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"times": ()}, "fall from 1"),
        ({"times": (0.5,)}, "fall from 1"),
        ({"times": (1.0, 0.5, 0.5)}, "fall from 1"),
        ({"times": (1.0, 0.0)}, "times to be a finite number"),
        ({"auxiliary_updates": 0}, "auxiliary_updates"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_ends_where_the_whole_one_does(stop, tmp_path):
    """Stopped before, at and after the student's turn."""

    def train(steps, **options):
        m = build(learned_teacher(), times=(1.0, 0.5), auxiliary_updates=3)
        return m, fit(m, StudentEMA([0.9]), max_steps=steps, **options)

    m, _ = train(7)
    _, half = train(stop)
    half.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = train(7, ckpt_path=tmp_path / "half.ckpt")
    assert same(weights(m), weights(again))


def test_a_turn_is_counted_in_optimizer_steps():
    m = build(learned_teacher(), auxiliary_updates=2)
    start, turns = weights(m.student), []
    training_step = m.training_step

    def watch(*arguments):
        turns.append(m.moves_student)
        return training_step(*arguments)

    m.training_step = watch
    fit(m, max_steps=2, accumulate_grad_batches=2)
    assert turns == [False, False, True, True]
    assert not same(start, weights(m.student))


CONFIG = {
    "model": {
        "class_path": "DMDModule",
        "init_args": {
            **PLANE,
            "times": [1.0, 0.5],
            "weight": {"class_path": "freeflow_lightning.objectives.KLWeight"},
            "auxiliary_updates": 2,
        },
    },
    "data": {
        "class_path": "PriorDataModule",
        "init_args": {"batch_size": 8, "length": 4, "val_samples": 8},
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 4,
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
    },
}


def test_a_config_trains_a_student_that_is_exported_and_reopened(freeflow):
    Path("dmd.yaml").write_text(json.dumps(CONFIG))
    code, _, error = freeflow("fit", "--config", "dmd.yaml")
    assert code == 0, error
    metrics = Path("runs/dmd/version_0/metrics.csv").read_text()
    assert all(name in metrics for name in ("correction/residual", "auxiliary/loss"))
    again = DMDModule.load_from_checkpoint("runs/dmd")
    assert again.weight == KLWeight()
    assert again.times == (1.0, 0.5)
    student = FlowMap.from_checkpoint("runs/dmd")
    assert student.pairs is Pairs.ANY_TO_DATA
    code, _, error = freeflow("export", "runs/dmd", "--output", "exported")
    assert code == 0, error
    card = Path("exported/README.md").read_text()
    assert "samples in 1, 2 steps (renoise)" in card
    assert "steps=2, sampler='renoise'" in card
    exported = FlowMap.from_pretrained("exported")
    assert torch.equal(exported.sample(5), student.sample(5))
    assert exported.trained == student.trained == Trained(Pairs.ANY_TO_DATA, (1.0, 0.5))
    assert exported.sample(5, steps=2, sampler="renoise").isfinite().all()
    words = ["--steps", 4, "--sampler", "renoise", "--output", "four"]
    for place in ("runs/dmd", "exported"):
        code, _, error = freeflow("sample", place, *words)
        assert code == 1
        assert "at the times [1.0, 0.5] alone: expected steps 1 or 2, got 4" in error


def test_one_step_says_that_it_maps_the_prior_to_data():
    assert build().pairs is Pairs.PRIOR_TO_DATA
    assert build(r=Uniform()).auxiliary_training.r == Uniform()
    assert build(times=FOUR).auxiliary_training is None


def test_start_times_are_those_given_in_every_precision():
    m = build(learned_teacher(), times=[1.0, 0.7])
    asked, draw = [], draws(m)
    m.student.register_forward_pre_hook(lambda student, inputs: asked.append(inputs[1]))
    with HalfPrecision("bf16-true").forward_context():
        m.loss(draw)
    assert {round(t, 6) for t in asked[-1].tolist()} == {1.0, 0.7}  # 0.6992 in bfloat16
