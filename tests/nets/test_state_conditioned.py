"""A second state for any backbone: no effect at the start, an effect once trained."""

import copy

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import glass
from freeflow_lightning.nets import MLP, SecondState, SiT, StateConditioned
from freeflow_lightning.nets.state_conditioned import find_input_layer
from freeflow_lightning.teachers import SiTTeacher


def sit():
    network = SiT(4, 2, 3, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return network, torch.tensor([0, 1, 2, 3])


def mlp():
    return MLP((3, 4, 4), hidden_size=16, depth=1), None


def digits():
    return SiTTeacher("embedded:digits").backbone(), torch.tensor([0, 1, 2, 3])


BACKBONES = {"sit": sit, "mlp": mlp, "digits": digits}


def rows(network, seed=0):
    shape = (1, 8, 8) if "SiTVelocity" in type(network).__name__ else (3, 4, 4)
    g = torch.Generator().manual_seed(seed)
    y, state = torch.randn(2, 4, *shape, generator=g)
    s, t = torch.rand(2, 4, generator=g)
    return y, s, state, t, {"delta": s / 2, "gamma": torch.ones(4)}


@pytest.mark.parametrize("kind", BACKBONES)
def test_it_starts_as_the_backbone_bit_for_bit_whatever_the_state(kind):
    backbone, condition = BACKBONES[kind]()
    y, s, state, t, scalars = rows(backbone)
    expected = backbone(y, s, condition)
    network = StateConditioned(copy.deepcopy(backbone))
    assert torch.equal(network(y, s, condition, state=state, t_state=t, **scalars), expected)
    assert torch.equal(network(y, s, condition, **scalars), expected)


@pytest.mark.parametrize("kind", BACKBONES)
def test_preconditioned_it_starts_as_the_exact_posterior_velocity(kind):
    backbone, condition = BACKBONES[kind]()
    y, s, state, t, scalars = rows(backbone)
    network = StateConditioned(copy.deepcopy(backbone), second=SecondState(preconditioned=True))
    u = lambda x, t: backbone(x, t, condition)
    seen = network(y, s, condition, state=state, t_state=t, **scalars)
    assert torch.equal(seen, glass(u, y, s, state, t))
    torch.testing.assert_close(network(y, s, condition, **scalars), u(y, s))


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("kind", BACKBONES)
def test_every_input_is_learnt_and_a_state_at_the_prior_tells_nothing(kind, preconditioned):
    backbone, condition = BACKBONES[kind]()
    network = StateConditioned(backbone, second=SecondState(preconditioned=preconditioned))
    y, s, state, t, scalars = rows(backbone)
    ask = lambda state, t: network(y, s, condition, state=state, t_state=t, **scalars)
    ask(state, t).square().sum().backward()
    assert network.state_embedder.weight.grad.abs().sum() > 0
    with torch.no_grad():
        for weight in [*network.state_embedder.parameters(), *network.embedders.parameters()]:
            weight.add_(0.1)
    assert not torch.equal(ask(state, t), ask(state + 1, t))
    assert not torch.equal(ask(state, t), ask(state, t / 2))
    one = torch.ones_like(t)
    torch.testing.assert_close(ask(state, one), ask(state + 1, one))
    torch.testing.assert_close(ask(state, one), network(y, s, condition, **scalars))


def test_a_copy_sees_its_own_state():
    network = StateConditioned(mlp()[0])
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.state_embedder.weight.add_(1)
    y, s, state, t, scalars = rows(network)
    mine = network(y, s, state=state, t_state=t, **scalars)
    assert torch.equal(mine, network(y, s, **scalars))
    assert not torch.equal(mine, twin(y, s, state=state, t_state=t, **scalars))


def test_the_input_layer_is_found_by_usual_names_or_named():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_embed = nn.Linear(1, 4)
            self.start = nn.Conv2d(3, 4, 3, padding=1)
            self.end = nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x, t, condition=None):
            return self.end(self.start(x) + self.time_embed(t[:, None])[:, :, None, None])

    with pytest.raises(ValueError, match=r"one input layer in Plain, found 0.*start"):
        StateConditioned(Plain())
    network = StateConditioned(Plain(), second=SecondState("start"))
    assert network.state_embedder.weight.shape == (4, 3, 3, 3)
    y, s, state, t, scalars = rows(network)
    assert network(y, s, state=state, t_state=t, **scalars).shape == y.shape
    with pytest.raises(ValueError, match="'front' is not a module of Plain"):
        find_input_layer(Plain(), "front")
    backbone, _ = sit()
    backbone.patch_embed = nn.Identity()  # of positions alone, as FLUX has one
    assert find_input_layer(backbone) is backbone.x_embedder.proj


def test_an_input_that_is_packed_first_is_refused():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_embed = nn.Linear(1, 48)
            self.x_embedder = nn.Linear(12, 12)

        def forward(self, x, t, condition=None):
            return self.x_embedder(x.view(4, 4, 12)).view_as(x)

    network = StateConditioned(Packed())
    y, s, state, t, scalars = rows(network)
    with pytest.raises(ValueError, match=r"takes \[4, 4, 12\] for states of shape \[4, 3, 4, 4\]"):
        network(y, s, state=state, t_state=t, **scalars)
