"""Blocks: found in any network, recomputed with equal gradients, compiled once."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.nets import MLP, ScalarConditioned, blocks, compile_blocks, recompute
from freeflow_lightning.objectives import ContinuousPrediction
from freeflow_lightning.teachers import SiTVelocity, VelocityTeacher
from nets.random_weights import inputs, randomized, tiny_sit
from tiny import fit, module, same, weights


def student():
    return randomized(ScalarConditioned(SiTVelocity(tiny_sit()), ("delta", "gamma")))


def sit_module(**settings):
    net = tiny_sit(3)
    return module(
        VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes),
        network=None,
        check_teacher=False,
        **settings,
    )


def gradients(net):
    x, t, y = inputs()
    net.zero_grad()
    (net(x, t, y, delta=t, gamma=t + 1) ** 2).sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.requires_grad]


def kept(net):
    """Bytes that autograd keeps for the backward pass."""
    x, t, y = inputs(32)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda a: sizes.append(a.numel() * a.element_size()) or a, lambda a: a
    ):
        net(x, t, y, delta=t, gamma=t + 1)
    return sum(sizes)


def test_the_blocks_of_a_network():
    net = SiTVelocity(tiny_sit())
    assert blocks(net) == list(net.net.blocks)
    assert len(blocks(MLP((2,), depth=3))) == 6
    assert blocks(torch.nn.Linear(2, 2)) == []


def test_recomputed_gradients_are_equal_and_take_less_memory():
    plain, again = student(), student()
    keys, size = list(again.state_dict()), kept(plain)
    recompute(again.backbone)
    twin = copy.deepcopy(again)
    for net in (again, twin):
        assert list(net.state_dict()) == keys
        assert all(torch.equal(a, b) for a, b in zip(gradients(net), gradients(plain), strict=True))
        assert kept(net) < size / 2
    with torch.no_grad():  # a copy recomputes its own blocks
        for p in again.parameters():
            p.zero_()
    assert all(torch.equal(a, b) for a, b in zip(gradients(twin), gradients(plain), strict=True))


@pytest.mark.parametrize(
    "prediction", [{}, {"prediction": ContinuousPrediction(ExactJVP())}], ids=["discrete", "exact"]
)
def test_a_run_with_recomputed_activations_is_the_run(prediction):
    ends = []
    for on in (False, True):
        m = sit_module(activation_checkpointing=on, **prediction)
        fit(m, max_steps=2)
        ends.append(weights(m))
    assert same(*ends)


def test_a_network_without_blocks_cannot_be_recomputed():
    with pytest.raises(ValueError, match="leave activation_checkpointing out"):
        recompute(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "prediction", [{}, {"prediction": ContinuousPrediction(ExactJVP())}], ids=["discrete", "exact"]
)
@pytest.mark.slow
def test_a_compiled_run_is_the_run_and_compiles_nothing_after_its_first_steps(prediction):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    m, plain = (
        sit_module(compile=counter, **prediction),
        sit_module(skip_idle_rows=False, **prediction),
    )
    keys = list(m.state_dict())
    counts = []
    loss = m.loss
    m.loss = lambda *a: counts.append(counter.frame_count) or loss(*a)
    fit(m, max_steps=8)
    fit(plain, max_steps=8)
    assert counter.frame_count == counts[3] > 0
    assert list(m.state_dict()) == keys == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.allclose(m.state_dict()[name], value, atol=1e-4), name


def test_what_is_compiled_shares_its_graphs():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    net = SiTVelocity(tiny_sit(depth=6))
    compile_blocks(net, counter)
    x, t, y = inputs()
    net(x, t, y)
    assert counter.frame_count == 1
