import copy
import re

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.nets import MLP, ScalarConditioned, ScalarEmbedder, time_embeddings
from nets.random_weights import inputs, tiny_sit


def student(scalars=("delta", "gamma"), **settings):
    return ScalarConditioned(tiny_sit(), scalars, **settings)


def scalars(n=4):
    g = torch.Generator().manual_seed(2)
    return {"delta": torch.rand(n, generator=g), "gamma": 1 + torch.rand(n, generator=g)}


def switched_on(net, seed=0):
    g = torch.Generator().manual_seed(seed)
    for embedder in net.embedders.values():
        embedder.mlp[2].weight.data.normal_(generator=g)
    return net


def test_a_new_wrapper_is_the_backbone_bit_for_bit():
    net, (x, t, y) = student(), inputs()
    for extra in (
        scalars(),
        {"delta": torch.zeros(4), "gamma": torch.ones(4)},
        {"delta": torch.ones(4), "gamma": 9 + t},
    ):
        out = net(x, t, y, **extra)
        assert torch.equal(out, tiny_sit()(x, t, y))
    assert out.abs().max() > 0.1


def test_the_backbone_called_alone_ignores_the_scalars():
    net, (x, t, y) = switched_on(student()), inputs()
    conditioned = net(x, t, y, **scalars())
    alone = net.backbone(x, t, y)
    assert torch.equal(alone, tiny_sit()(x, t, y))
    assert not torch.allclose(alone, conditioned)


def test_scalars_are_forgotten_after_an_error():
    net, (x, t, y) = switched_on(student()), inputs()
    with pytest.raises(IndexError):
        net(x, t, y + 100, **scalars())
    assert torch.equal(net.backbone(x, t, y), tiny_sit()(x, t, y))


@pytest.mark.parametrize("name", ["delta", "gamma"])
def test_each_scalar_matters_once_switched_on(name):
    net, (x, t, y), extra = switched_on(student()), inputs(), scalars()
    moved = {**extra, name: extra[name] + 0.1}
    assert ((net(x, t, y, **moved) - net(x, t, y, **extra)).abs().amax((1, 2, 3)) > 1e-4).all()


def test_scalars_are_added_to_the_time_embedding():
    """The embedding of delta, put where the time embedding is, is the same network."""
    net, (x, t, y) = switched_on(student(("delta",))), inputs()
    extra = net.embedders["delta"](scalars()["delta"])

    class Sum(nn.Module):
        def forward(self, t):
            return net.backbone.t_embedder(t) + extra

    other = tiny_sit()
    other.t_embedder = Sum()
    torch.testing.assert_close(net(x, t, y, delta=scalars()["delta"]), other(x, t, y))


def gradients(net):
    x, t, y = inputs()
    net.zero_grad()
    net(x, t, y, **scalars()).square().sum().backward()
    return {name: p.grad.abs().max().item() for name, p in net.embedders.named_parameters()}


def test_gradients_reach_the_last_layer_at_once_and_the_first_after_a_step():
    net = student()
    before = gradients(net)
    assert all(before[f"{name}.mlp.2.weight"] > 0 for name in ("delta", "gamma"))
    assert all(before[f"{name}.mlp.0.weight"] == 0 for name in ("delta", "gamma"))
    torch.optim.Adam(net.parameters(), 1e-3).step()
    assert all(value > 0 for value in gradients(net).values())


def test_keys_of_the_backbone_are_unchanged():
    keys = student().state_dict().keys()
    own = {key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")}
    assert own == tiny_sit().state_dict().keys()
    rest = {key for key in keys if not key.startswith("backbone.")}
    layers = ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
    assert rest == {f"embedders.{name}.{layer}" for name in ("delta", "gamma") for layer in layers}


def test_a_deep_copy_is_independent():
    net, (x, t, y), extra = switched_on(student()), inputs(), scalars()
    twin = copy.deepcopy(net)
    expected = net(x, t, y, **extra)
    assert torch.equal(twin(x, t, y, **extra), expected)
    switched_on(net, seed=7)
    assert torch.equal(twin(x, t, y, **extra), expected)  # the hook of the copy reads the copy
    assert not torch.allclose(net(x, t, y, **extra), expected)


def test_delta_keeps_float32_under_autocast():
    """0.997 and 0.9961 are one number in bfloat16."""
    net = switched_on(student(("delta",), scale=1000.0))
    x, t, y = inputs(1)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (net(x, t, y, delta=torch.tensor([delta])).float() for delta in (0.997, 0.9961))
    assert (a - b).norm() > 0.02 * a.norm()


def test_scale_multiplies_the_scalar():
    a, b = switched_on(student(("delta",))), switched_on(student(("delta",), scale=8.0))
    b.load_state_dict(a.state_dict())
    x, t, y = inputs()
    torch.testing.assert_close(
        b(x, t, y, delta=scalars()["delta"] / 8), a(x, t, y, delta=scalars()["delta"])
    )


def test_the_derivative_at_initialisation_is_0_and_not_missing():
    net, (x, t, y) = student(("delta",)), inputs()
    assert ExactJVP()(lambda z, delta: net(z, t, y, delta=delta), x, t).abs().max() == 0


@pytest.mark.parametrize(
    "given", [{}, {"delta": 1}, {"delta": 1, "gamma": 1, "omega": 1}, {"delta": 1, "omega": 1}]
)
def test_exactly_the_named_scalars_are_asked(given):
    x, t, y = inputs()
    with pytest.raises(ValueError, match=r"expected the scalars \['delta', 'gamma'\]"):
        student()(x, t, y, **{name: torch.ones(4) for name in given})


def test_time_embedding_is_found_in_our_networks():
    assert list(time_embeddings(tiny_sit())) == ["t_embedder"]
    assert list(time_embeddings(nn.ModuleDict({"net": MLP((2,), 8, 1)}))) == ["net.t_embedder"]


class Odd(nn.Module):
    """A backbone with unusual names: no time embedding by name, or two."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.add_module(name, ScalarEmbedder(8))


def linear():
    return nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))


class Sinusoid(nn.Module):
    """No weights."""


def ddpm():
    """temb is a container that nobody calls: its layers are called one by one."""
    net = nn.Module()
    net.dense = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    return net


NETWORKS = {  # name: (what the network is made of, the module that embeds the time)
    "ADM": ({"time_embed": linear(), "out": linear()}, "time_embed"),
    "lucidrains": ({"time_mlp": nn.Sequential(Sinusoid(), *linear())}, "time_mlp"),
    "a layer for the time in each block": (
        {
            "time_mlp": linear(),
            "downs": nn.ModuleList(
                [nn.ModuleDict({"time_mlp": nn.Linear(8, 4)}) for _ in range(2)]
            ),
        },
        "time_mlp",
    ),
    "by hand": ({"t_mlp": linear()}, "t_mlp"),
    "short": ({"t_emb": linear()}, "t_emb"),
    "DDPM": ({"temb": ddpm(), "temb_proj": nn.Linear(8, 8)}, "temb.dense.1"),
    "temb": ({"temb": linear()}, "temb"),
    "EDM": (
        {"map_noise": Sinusoid(), "map_layer0": nn.Linear(8, 8), "map_layer1": nn.Linear(8, 8)},
        "map_layer1",
    ),
    "EDM2": (
        {"unet": nn.ModuleDict({"emb_noise": nn.Linear(8, 8), "emb_label": nn.Linear(8, 8)})},
        "unet.emb_noise",
    ),
    "a projection alone": ({"time_proj": nn.Linear(8, 8)}, "time_proj"),
    "UNet of diffusers": ({"time_proj": Sinusoid(), "time_embedding": linear()}, "time_embedding"),
    "Wan": ({"time_embedder": linear(), "time_proj": nn.Linear(8, 48)}, "time_embedder"),
    "an embedding and its projection": (
        {"time_emb": linear(), "time_proj": nn.Linear(8, 8)},
        "time_emb",
    ),
    "DiffWave": ({"diffusion_embedding": linear()}, "diffusion_embedding"),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_time_embedding_of_usual_networks_is_found(kind):
    parts, expected = NETWORKS[kind]
    net = Odd()
    for name, part in parts.items():
        net.add_module(name, part)
    assert list(time_embeddings(net)) == [expected]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("time_mlp", "noise_embed"),
            "found 2: name it with time_module=.*'time_mlp', 'noise_embed'",
        ),
        (("clock", "body"), "found 0: name it with time_module=.*'clock', .*'body'"),
        (
            ("t_embedder", "time_embedding"),
            "found 2: name it with time_module=.*'t_embedder', 'time_embedding'",
        ),
    ],
)
def test_an_ambiguous_time_embedding_lists_the_candidates(names, message):
    with pytest.raises(ValueError, match=message):
        time_embeddings(Odd(*names))


def test_a_named_time_module_is_used():
    assert list(time_embeddings(Odd("clock"), "clock")) == ["clock"]
    assert (
        ScalarConditioned(Odd("clock"), ("delta",), time_module="clock")
        .embedders["delta"]
        .mlp[2]
        .out_features
        == 8
    )


def test_a_wrong_name_lists_the_modules():
    with pytest.raises(
        ValueError, match=re.escape("time_module='clok' is not a module of Odd; it has ['clock'")
    ):
        ScalarConditioned(Odd("clock"), ("delta",), time_module="clok")


def test_a_time_module_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match=r"'clock\.mlp\.1' has no linear layer"):
        ScalarConditioned(Odd("clock"), ("delta",), time_module="clock.mlp.1")
