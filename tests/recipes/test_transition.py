"""TransitionModule: both stages against closed forms; costs, refusals, runs, a tiny Wan."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from freeflow_lightning import FlowMap, TransitionModule
from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.flow import CentralDifference, Pairs, bridge
from freeflow_lightning.nets import SplitConditioned, SplitHead
from freeflow_lightning.nets.split import Features
from freeflow_lightning.objectives import Eulerian, Lagrangian, Semigroup
from freeflow_lightning.sampling.jumps import Jumps, fresh_noise
from freeflow_lightning.teachers import (
    DiffusersTeacher,
    GaussianMixtureTeacher,
    Prompts,
    SiTVelocity,
    VelocityTeacher,
)
from freeflow_lightning.teachers.prompt_files import write_prompts
from nets.random_weights import tiny_sit
from recipes.test_flow_map import Rows, draws
from teachers.tiny_diffusers import TINY, quiet
from tiny import by_arguments_and_by_recipe, fit, same, weights, with_shaken_networks

UNGUIDED = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0}
SHAPE = {"input_size": 2, "patch_size": 1, "in_channels": 1, "num_classes": 2, "depth": 3}

THREE = SplitHead(1, outer_steps=3)


def sit(seed=0):
    return SiTVelocity(tiny_sit(seed, **SHAPE))


def build(**changes):
    teacher = VelocityTeacher(sit(1), (1, 2, 2), 2)
    settings = {"network": sit(), "head": SplitHead(1, steps=2), "student_lr": 1e-2} | changes
    return with_shaken_networks(TransitionModule(settings.pop("teacher", teacher), **settings))


# The first stage


class ExactHead(SplitConditioned):
    """The average inner velocity of one Gaussian: Y given x_t is a Gaussian, and so is closed."""

    def __init__(self, teacher, offset=0.0):
        nn.Module.__init__(self)
        self.posterior, self.offset, self.head = teacher.posterior, offset, SplitHead(steps=1)

    def features(self, x, t, condition, gamma):
        return Features(x, t, condition, gamma)

    def inner_velocity(self, features, y, s, delta):
        x, t = features.tokens, features.t[:, None]
        law = self.posterior(x, features.t)
        mean, std = (law.means[:, 0] - x) / t, law.stds[:, :1] / t
        s, r = s[:, None], (s - delta)[:, None]
        at = lambda time: ((1 - time) ** 2 * std**2 + time**2).sqrt()
        slope = ((s + r) * (1 + std**2) - 2 * std**2) / ((at(s) + at(r)) * at(s))
        return mean - slope * (y - (1 - s) * mean) + self.offset * y.sin()


@pytest.mark.parametrize("objective", [Eulerian(), Lagrangian()])
def test_the_residuals_vanish_at_the_exact_inner_map_and_nowhere_else(objective, monkeypatch):
    m = build(objective=objective, head=THREE, **UNGUIDED)
    m.frozen.net = GaussianMixtureTeacher(torch.tensor([[0.8, -0.4]], dtype=torch.float64), 0.6)
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    sizes = []
    for offset in (0.0, 0.1):
        m.student = ExactHead(m.teacher, offset)
        draw = draws(m, 64)
        wide = {name: getattr(draw, name).double() for name in ("gamma", "s", "delta")}
        residuals = m.loss(draw._replace(**wide)).residuals
        sizes.append([float(each.error.square().mean().sqrt()) for each in residuals.values()])
    assert max(sizes[0]) < 1e-6  # the outer times are float32
    assert min(sizes[1]) > 1e-2


def test_a_step_of_either_stage_costs_what_it_says():
    m = build(objective=Eulerian(CentralDifference(1e-2)), auxiliary_updates=2)
    blocks, teacher = [], Rows(m.teacher)
    for block in m.student.backbone.net.blocks:
        block.register_forward_hook(lambda block, inputs, output: blocks.append(len(output)))
    auxiliary = Rows(m.auxiliary)
    for m.matches, turn in ((True, [True]), (False, [False, True])):
        for m.moves_student in turn:
            step = m.loss(draws(m))
        size = 16 * len(turn)
        seen = {"student": sum(blocks) / 3 / size}
        seen["teacher"] = sum(rows for rows, _ in teacher.calls) / size
        seen["auxiliary"] = sum(rows for rows, _ in auxiliary.calls) / size
        said = {"auxiliary": 0} | m.evaluations_per_sample()
        assert seen == pytest.approx(said)
        for found in (blocks, teacher.calls, auxiliary.calls):
            found.clear()
    step.loss.backward()
    trained = [*m.student.parameters(), *m.auxiliary.parameters()]
    assert all(p.grad is not None for p in trained if p.requires_grad)


# The second stage


def test_each_row_starts_at_its_time_on_the_student_s_own_transitions():
    m = build(head=THREE)
    m.matches = False
    draw = draws(m, 8)
    draw = draw._replace(place=torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    z, condition, gamma = draw.rows.z, draw.rows.condition, draw.rows.gamma
    x = [z]
    for k in range(2):
        t, s = torch.full((8,), 1 - k / 3), torch.full((8,), 1 - (k + 1) / 3)
        Y = m.student(x[-1], t, condition, delta=t, gamma=gamma, e=draw.e[k])
        x.append(bridge(x[-1] + t.view(-1, 1, 1, 1) * Y, x[-1], t, s))
    by_hand = torch.stack(x)[draw.place, torch.arange(8)]
    torch.testing.assert_close(m._place(draw), by_hand)


def test_the_gradient_is_that_of_the_correction_of_x0():
    """< Y, t w (v_N - u) > by hand, v_N of the samples of each outer step alone."""
    m = build(head=THREE, **UNGUIDED)
    m.matches = False
    draw = draws(m, 8)
    step = m.loss(draw)
    residual = step.residuals["correction"]
    n, r = draw.rows.n, draw.rows.r
    t = 1 - draw.place / 3
    four = lambda value: value.view(-1, 1, 1, 1)
    x0 = m._place(draw) + four(t) * residual.output.detach()
    x_r = (1 - four(r)) * x0 + four(r) * n
    v_n = m.auxiliary(x_r, r, draw.rows.condition, gamma=draw.rows.gamma, start=t)
    u = m.teacher.velocity(x_r, r, draw.rows.condition)
    factor = t * r / (x0 - (x_r + four(r) * u)).abs().mean((1, 2, 3))
    torch.testing.assert_close(residual.error, (four(factor) * (v_n - u)).detach())


def test_the_student_rests_while_the_auxiliary_network_learns():
    m = build(match_steps=2, auxiliary_updates=3)
    at_end = [weights(m.student)]

    class Watch(Callback):
        def on_train_batch_end(self, *_):
            at_end.append(weights(m.student))

    fit(m, Watch(), max_steps=6)
    moved = [not same(a, b) for a, b in pairwise(at_end)]
    assert moved == [True, True, True, False, False, True]


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": Semigroup()}, "Semigroup takes steps of the teacher or none"),
        ({"head": SplitHead(3)}, "a head of fewer than the 3 blocks of SiT"),
        ({"diagonal_fraction": 0.0}, "diagonal_fraction"),
    ],
)
def test_settings_that_cannot_train_the_map_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


# Runs


def test_a_run_resumed_before_the_second_stage_ends_where_the_whole_one_does(tmp_path):
    def train(steps, **options):
        m = build(match_steps=3, auxiliary_updates=2)
        return m, fit(m, StudentEMA([0.9]), max_steps=steps, **options)

    m, _ = train(5)
    assert not m.matches
    _, half = train(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = train(5, ckpt_path=tmp_path / "half.ckpt")
    assert same(weights(m), weights(again))
    assert not same(weights(m.auxiliary), weights(build(match_steps=3).auxiliary))


def test_the_student_of_a_run_samples_by_transitions_and_comes_back_from_a_folder(freeflow):
    model = {
        "class_path": "TransitionModule",
        "init_args": {
            "teacher": {
                "class_path": "SiTTeacher",
                "init_args": {"checkpoint": "embedded:digits"},
            },
            "head": {"blocks": 1, "steps": 2, "outer_steps": 3},
            "match_steps": 1,
        },
    }
    data = {"class_path": "PriorDataModule", "init_args": {"batch_size": 4, "val_samples": 8}}
    trainer = {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False}
    Path("tm.yaml").write_text(json.dumps({"model": model, "data": data, "trainer": trainer}))
    code, _, error = freeflow("fit", "--config", "tm.yaml")
    assert code == 0, error
    words = ["sample", "runs/tm", "--steps", 3, "--num_samples", 8, "--output"]
    code, _, error = freeflow(*words, "s", "--sampler", "transition")
    assert code == 0, error
    code, _, error = freeflow(*words, "t")
    assert code == 1
    assert "trained from transitions to data alone: expected the sampler transition" in error
    words[3] = 2
    code, _, error = freeflow(*words, "t", "--sampler", "transition")
    assert code == 1
    assert "alone: expected steps 1 or 3, got 2" in error

    student, again = by_arguments_and_by_recipe("runs/tm")
    assert again.about == student.about
    way = {"steps": 3, "sampler": "transition"}
    assert torch.equal(again.sample(2, **way), student.sample(2, **way))
    assert student.pairs is Pairs.TRANSITIONS
    z, labels = student.teacher.draw_indexed(torch.arange(8), seed=0, stream="samples")
    jumps, gamma = Jumps(3, "transition"), torch.full((8,), 1.5)
    x = z
    for k in range(3):
        t, s = torch.full((8,), 1 - k / 3), torch.full((8,), 1 - (k + 1) / 3)
        with torch.no_grad():
            Y = student.network(x, t, labels, delta=t, gamma=gamma, e=fresh_noise(z, k))
        x = x + (t - s).view(-1, 1, 1, 1) * Y
    torch.testing.assert_close(student.jump(z, labels, 1.5, jumps), x, atol=1e-5, rtol=1e-4)
    student.save_pretrained("exported")
    again = FlowMap.from_pretrained("exported")
    assert torch.equal(again.jump(z, labels, 1.5, jumps), student.jump(z, labels, 1.5, jumps))


@pytest.mark.slow
def test_a_tiny_wan_runs_through_both_stages(tmp_path):
    tiny = TINY["wan"]
    with quiet():
        tiny.save(tmp_path / "model")
    given = tiny.condition(4)
    null = {name: tensor[:1] for name, tensor in given.items()}
    write_prompts(tmp_path / "e", [given], null, {"network": "WanTransformer3DModel"})
    teacher = DiffusersTeacher(tmp_path / "model", Prompts(tmp_path / "e"), latent_size=tiny.size)
    objective = Lagrangian(CentralDifference(1e-2))
    m = TransitionModule(
        teacher, match_steps=2, objective=objective, student_lr=1e-3, check_teacher=False
    )
    assert (m.student.depth, m.student.head_blocks) == (2, 1)
    before = weights(m.student)
    fit(m, max_steps=2)
    matched = weights(m.student)
    fit(m, max_steps=4)
    for then, now in ((before, matched), (matched, weights(m.student))):
        moved = [name for name, value in now.items() if not torch.equal(value, then[name])]
        assert any("blocks.0" in name for name in moved)
        assert any("blocks.1" in name for name in moved)
