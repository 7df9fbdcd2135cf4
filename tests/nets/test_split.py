"""A backbone split into features and a head: no effect at the start, what it costs, what it reaches."""

import copy
import math

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import glass_transition
from freeflow_lightning.nets import MLP, SplitConditioned, SplitHead, find_blocks
from freeflow_lightning.nets.split import Features
from freeflow_lightning.teachers import DiffusersTeacher, GaussianMixtureTeacher, SiTTeacher
from nets.random_weights import tiny_sit
from teachers.diffusers.test_pipelines import Given
from teachers.tiny_diffusers import TINY, quiet


def sit(folder):
    return tiny_sit(depth=4), (3, 4, 4), torch.tensor([0, 1])


def faces(folder):
    return SiTTeacher("embedded:faces").network(), (3, 16, 16), torch.tensor([0, 3])


def published(name, folder):
    tiny = TINY[name]
    with quiet():
        tiny.save(folder)
    given = Given(tiny.condition(2), tiny.condition(2))
    teacher = DiffusersTeacher(folder, given, latent_size=tiny.size)
    return teacher.network(), teacher.sample_shape, given.draw(2, None)


def wan(folder):
    return published("wan", folder)


def sd3(folder):
    """Its blocks return the text's tokens and the state's."""
    return published("sd3", folder)


@pytest.mark.parametrize("backbone", [sit, faces, wan, sd3])
def test_it_starts_as_the_backbone_bit_for_bit_whatever_the_inner_state(backbone, tmp_path):
    network, shape, condition = backbone(tmp_path)
    t, gamma = torch.tensor([0.3, 0.9]), torch.ones(2)
    x, y, e = torch.randn(3, 2, *shape)
    expected = network(x, t, condition)
    split = SplitConditioned(copy.deepcopy(network))
    features = split.features(x, t, condition, gamma)
    head = split.ask_head(features, y, t, t / 2)
    assert torch.equal(head, expected)
    one_step = SplitConditioned(network, head=SplitHead(steps=1))
    drawn = one_step(x, t, condition, delta=t, gamma=gamma, e=e)
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-5)


def switched_on(split):
    with torch.no_grad():
        for weight in [*split.gate.parameters(), *split.embedders.parameters()]:
            weight.add_(0.1)
    return split


def test_every_input_of_the_head_is_learnt_and_matters():
    split = SplitConditioned(tiny_sit(depth=3), head=SplitHead(1, steps=2))
    labels, t = torch.tensor([0, 1]), torch.tensor([0.4, 0.8])
    x, y, e = torch.randn(3, 2, 3, 4, 4)
    split(x, t, labels, delta=t, gamma=t, e=e).square().sum().backward()
    for layer in (split.gate, *split.embedders.values()):
        assert layer.mlp[2].weight.grad.abs().sum() > 0
    assert split.backbone.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    switched_on(split)
    features = split.features(x, t, labels, t)
    ask = lambda y, s, delta: split.ask_head(features, y, s, delta)
    seen = ask(y, t, t)
    for other in (ask(y + 1, t, t), ask(y, t / 2, t), ask(y, t, t / 2)):
        assert (other - seen).abs().max() > 1e-4


def test_a_draw_asks_the_deep_blocks_once_and_those_of_the_head_n_times():
    split = SplitConditioned(tiny_sit(depth=4), head=SplitHead(1, steps=3))
    calls = []
    for k, block in enumerate(split.backbone.blocks):
        block.register_forward_hook(lambda *_, k=k: calls.append(k))
    t = torch.tensor([0.4, 0.8])
    split(torch.randn(2, 3, 4, 4), t, torch.tensor([0, 1]), delta=t, gamma=t)
    assert calls == [0, 1, 2, 3, 3, 3]
    assert split.evaluations == len(calls) / 4 == 1.5
    assert len(split.backbone.blocks) == 4


class ExactHead(SplitConditioned):
    """The head of a mixture: y_s + s w, which is E[Y | y_s, x_t]."""

    def __init__(self, teacher, steps):
        nn.Module.__init__(self)
        self.teacher, self.head = teacher, SplitHead(steps=steps)

    def features(self, x, t, condition, gamma):
        return Features(x, t, condition, gamma)

    def ask_head(self, features, y, s, delta):
        w = glass_transition(self.teacher.velocity, y, s, features.tokens, features.t)
        return y + s.view(-1, *[1] * (y.ndim - 1)) * w


def test_inner_steps_of_the_exact_head_reach_the_posterior():
    """Kolmogorov's distance of x0 = x + t Y to p(x0 | x_t); critical at 1 % of 2000 is 0.036."""
    n = 2000
    line = GaussianMixtureTeacher([[1.2], [-1.0]], [0.25, 0.4])
    quantile = (torch.arange(n) + 0.5) / n
    e = torch.distributions.Normal(0.0, 1.0).icdf(quantile)[:, None]
    x, t, one = torch.full((n, 1), 0.2), torch.full((n,), 0.6), torch.ones(n)
    law = line.posterior(x[:1], t[:1])
    distances = []
    for steps in (2, 64):
        Y = ExactHead(line, steps)(x, t, None, delta=one, gamma=one, e=e)
        x0 = (x + 0.6 * Y).flatten().sort().values
        normal = torch.distributions.Normal(law.means[0, :, 0], law.stds[0])
        cdf = (law.log_weights[0].exp() * normal.cdf(x0[:, None])).sum(1)
        distances.append(float((cdf - quantile).abs().max()))
    assert distances[1] < 1.63 / math.sqrt(n) < distances[0]


@pytest.mark.parametrize(
    ("network", "head", "said"),
    [
        (tiny_sit(), SplitHead(2), "a head of fewer than the 2 blocks of SiT, got 2"),
        (tiny_sit(), SplitHead(path="layers"), "found none at 'layers'"),
        (MLP((2,), hidden_size=8, depth=2), SplitHead(), "'layers', 'modulations'"),
        (tiny_sit(depth=1), SplitHead(), "of two blocks or more in SiT"),
    ],
)
def test_what_cannot_be_split_is_refused(network, head, said):
    with pytest.raises(ValueError, match=said):
        SplitConditioned(network, head=head)


def test_blocks_are_found_and_a_copy_is_split_by_itself():
    path, found = find_blocks(tiny_sit(depth=3))
    assert (path, len(found)) == ("blocks", 3)
    split = SplitConditioned(tiny_sit(depth=3))
    twin = switched_on(copy.deepcopy(split))
    labels, t = torch.tensor([0, 1]), torch.tensor([0.4, 0.8])
    x = torch.randn(2, 3, 4, 4)
    plain = tiny_sit(depth=3)(x, t, labels)
    assert not torch.allclose(twin(x, t, labels, delta=t, gamma=t), plain, atol=1e-3)
    torch.testing.assert_close(split(x, t, labels, delta=t, gamma=t), plain, atol=1e-5, rtol=1e-5)
