"""One frozen backbone and adapters on it: off, it is the backbone; each adapter is a network of its own."""

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.nets import Adapter, LoRA, ScalarConditioned, merge
from nets.random_weights import inputs, tiny_sit
from tiny import shaken


def base():
    return tiny_sit().requires_grad_(False)


def adapter(backbone, name="student", **changes):
    return Adapter(backbone, name, LoRA(**{"rank": 2, **changes}), ["t_embedder"])


def conditioned(backbone, name="student", scalars=("delta",), **changes):
    return ScalarConditioned(adapter(backbone, name, **changes), scalars, time_owner=backbone)


def test_a_new_adapter_is_the_backbone_and_off_it_stays_the_backbone():
    shared, batch = base(), inputs()
    first, second = adapter(shared), adapter(shared, "auxiliary")
    expected = tiny_sit()(*batch)
    for network in (first, second, shared):
        assert torch.equal(network(*batch), expected)
    shaken(first), shaken(second, 1)
    assert torch.equal(shared(*batch), expected)
    a, b = first(*batch), second(*batch)
    assert not torch.allclose(a, expected)
    assert not torch.allclose(a, b)
    assert torch.equal(first(*batch), a)
    assert torch.equal(shared(*batch), expected)


def test_an_error_switches_the_adapter_off():
    shared, (x, t, y) = base(), inputs()
    network = shaken(adapter(shared))
    with pytest.raises(IndexError):
        network(x, t, y + 100)
    assert torch.equal(shared(x, t, y), tiny_sit()(x, t, y))


def test_gradients_reach_only_the_adapter_that_was_asked():
    """In one backward over both, as in a training step."""
    shared, batch = base(), inputs()
    first, second = shaken(adapter(shared)), shaken(adapter(shared, "auxiliary"), 1)
    alone = []
    for network in (first, second):
        network(*batch).square().sum().backward()
        alone.append([p.grad.clone() for p in network.parameters()])
        assert all(p.grad is None or p.grad.abs().max() > 0 for p in network.parameters())
        network.zero_grad()
    (first(*batch).square().sum() + second(*batch).square().sum()).backward()
    for network, expected in zip((first, second), alone, strict=True):
        for p, gradient in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, gradient)
    assert all(p.grad is None for name, p in shared.named_parameters() if "lora" not in name)


def test_only_the_adapter_is_registered_under_the_backbones_names():
    shared = base()
    keys = adapter(shared, target_modules=["qkv"]).state_dict()
    assert set(keys) == {f"blocks.{i}.attn.qkv.lora_{part}.weight" for i in (0, 1) for part in "AB"}
    assert keys["blocks.0.attn.qkv.lora_A.weight"].shape == (2, 16)


def test_the_backbones_state_dict_is_as_before():
    shared = base()
    adapter(shared), adapter(shared, "auxiliary")
    state, plain = shared.state_dict(), tiny_sit().state_dict()
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[key], plain[key]) for key in plain)
    nested = nn.ModuleDict({"net": shared}).state_dict()
    assert set(nested) == {f"net.{key}" for key in plain}


def test_every_linear_layer_but_the_time_embedding_is_adapted():
    keys = adapter(base()).state_dict()
    adapted = {key.rsplit(".lora_", 1)[0] for key in keys}
    expected = {
        path for path, module in tiny_sit().named_modules() if isinstance(module, nn.Linear)
    }
    assert adapted == {path for path in expected if not path.startswith("t_embedder")}


def test_layers_by_regular_expression_and_a_second_adapter_on_the_same_ones():
    shared, pattern = base(), r".*\.attn\.(qkv|proj)"
    first, second = (
        adapter(shared, name, target_modules=pattern) for name in ("student", "auxiliary")
    )
    assert first.state_dict().keys() == second.state_dict().keys()
    assert {key.split(".")[2] for key in first.state_dict()} == {"attn"}


def test_convolutions_are_adapted_and_embeddings_are_refused():
    keys = adapter(base(), target_modules=["x_embedder.proj"]).state_dict()
    assert keys["x_embedder.proj.lora_A.weight"].shape == (2, 3, 2, 2)
    with pytest.raises(
        ValueError, match=r"y_embedder\.embedding_table is neither a linear layer nor a convolution"
    ):
        adapter(base(), target_modules=["embedding_table"])


def test_alpha_over_rank_is_the_scale():
    batch, out = inputs(), {}
    for alpha in (None, 2.0, 4.0):
        torch.manual_seed(0)
        out[alpha] = shaken(adapter(base(), alpha=alpha))(*batch)
    assert torch.equal(out[None], out[2.0])
    assert not torch.allclose(out[4.0], out[2.0])


def test_scalars_enter_only_the_network_that_has_them():
    shared, (x, t, y) = base(), inputs()
    student, auxiliary = conditioned(shared), conditioned(shared, "auxiliary", ("gamma",))
    for seed, network in enumerate((student, auxiliary)):
        shaken(network, seed)
    moved = student(x, t, y, delta=t)
    assert not torch.allclose(student(x, t, y, delta=t + 0.5), moved)
    assert torch.equal(shared(x, t, y), tiny_sit()(x, t, y))
    assert not torch.allclose(auxiliary(x, t, y, gamma=t), moved)
    assert torch.equal(student(x, t, y, delta=t), moved)


def test_the_exact_derivative_passes_through():
    (x, t, y), student = inputs(), shaken(conditioned(base()), size=0.2)
    slope = ExactJVP()(lambda z, delta: student(z, t, y, delta=delta), x, t)
    h = 1e-2
    difference = (student(x, t, y, delta=t + h) - student(x, t, y, delta=t - h)) / (2 * h)
    assert slope.abs().max() > 1e-3
    torch.testing.assert_close(slope, difference, atol=2e-3, rtol=2e-2)


def test_merged_is_the_adapted_network_without_its_adapters():
    shared, (x, t, y) = base(), inputs()
    student = shaken(conditioned(shared), size=0.2)
    conditioned(shared, "auxiliary", ("gamma",))
    alone = merge(student)
    torch.testing.assert_close(
        alone(x, t, y, delta=t), student(x, t, y, delta=t), atol=1e-5, rtol=1e-4
    )
    assert {
        key.removeprefix("backbone.") for key in alone.state_dict() if key.startswith("backbone.")
    } == set(tiny_sit().state_dict())
    assert not any("lora" in type(module).__module__ for module in alone.modules())
    expected = alone(x, t, y, delta=t)
    shaken(student, 5)
    assert torch.equal(alone(x, t, y, delta=t), expected)
    assert torch.equal(shared(x, t, y), tiny_sit()(x, t, y))


def test_merging_a_network_without_an_adapter_copies_it():
    network, (x, t, y) = ScalarConditioned(tiny_sit(), ("delta",)), inputs()
    alone = merge(network)
    assert torch.equal(alone(x, t, y, delta=t), network(x, t, y, delta=t))
    shaken(network)
    assert not torch.equal(alone(x, t, y, delta=t), network(x, t, y, delta=t))


def test_dropout_follows_the_adapters_mode():
    shared, batch = base().eval(), inputs()
    network = shaken(adapter(shared, dropout=0.5))
    assert not torch.equal(network.train()(*batch), network(*batch))
    assert torch.equal(network.eval()(*batch), network(*batch))


def test_compiled_in_place_it_is_the_same_network():
    shared, (x, t, y) = base(), inputs()
    student, auxiliary = conditioned(shared), conditioned(shared, "auxiliary", ("gamma",))
    shaken(student, 0), shaken(auxiliary, 1)
    expected = student(x, t, y, delta=t), auxiliary(x, t, y, gamma=t), shared(x, t, y)
    student.compile(backend="eager"), auxiliary.compile(backend="eager")
    for _ in range(2):
        for out, right in zip(
            (student(x, t, y, delta=t), auxiliary(x, t, y, gamma=t), shared(x, t, y)),
            expected,
            strict=True,
        ):
            torch.testing.assert_close(out, right)


@pytest.mark.parametrize(
    "settings", [{"rank": 0}, {"dropout": 1.0}, {"networks": []}, {"networks": ["teacher"]}]
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"expected (lora.)?{next(iter(settings))} to be"):
        LoRA(**settings)


def test_nothing_to_adapt_is_refused():
    with pytest.raises(ValueError, match=r"LoRA cannot adapt \['qvk'\]"):
        adapter(base(), target_modules=["qvk"])
    convolutional = nn.Sequential(nn.Conv2d(1, 1, 3))
    with pytest.raises(
        ValueError,
        match=r"no nn.Linear to adapt: name layers in lora.target_modules; it has \['Conv2d'\]",
    ):
        adapter(convolutional)
