"""Students and auxiliaries from diffusers networks: delta and gamma enter through the time embedding."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.nets import ScalarConditioned, time_embeddings
from freeflow_lightning.teachers import DiffusersTeacher
from teachers.diffusers.test_pipelines import Given
from teachers.tiny_diffusers import TINY, quiet

EXPECTED = {
    "sd3": "time_text_embed.timestep_embedder",
    "flux": "time_text_embed.timestep_embedder",
    "flux2": "time_guidance_embed.timestep_embedder",
    "sana": "time_embed.emb.timestep_embedder",
    "lumina2": "time_caption_embed.timestep_embedder",
    "auraflow": "time_step_proj",
    "wan": "condition_embedder.time_embedder",
    "zimage": "t_embedder",
    "chroma": "distilled_guidance_layer.out_proj",
    "sd15": "time_embedding",
}


@pytest.fixture(params=[name for name in TINY if name not in ("flux schnell", "sd2 v")])
def family(request, tmp_path):
    """Name, teacher, x, t, condition, delta, gamma."""
    tiny = TINY[request.param]
    with quiet():
        tiny.save(tmp_path)
    torch.manual_seed(1)
    condition, null = tiny.condition(2), tiny.condition(2)
    teacher = DiffusersTeacher(tmp_path, Given(condition, null), latent_size=tiny.size)
    x = torch.randn(2, *teacher.sample_shape)
    return (
        request.param,
        teacher,
        x,
        torch.tensor([0.7, 0.4]),
        condition,
        torch.tensor([0.3, 0.8]),
        torch.tensor([1.5, 2.0]),
    )


def student(teacher, scalars=("delta", "gamma")):
    return ScalarConditioned(teacher.network(), scalars)


def switched_on(net):
    torch.manual_seed(2)
    with torch.no_grad():
        for embedder in net.embedders.values():
            embedder.mlp[2].weight.normal_(std=0.3)
    return net


def asked(net, family, **changes):
    _, _, x, t, condition, delta, gamma = family
    return net(x, t, condition, **({"delta": delta, "gamma": gamma} | changes))


def test_a_student_starts_as_its_teacher_bit_for_bit_and_learns(family):
    name, teacher, x, t, condition, _, gamma = family
    net = student(teacher)
    expected = (
        teacher.guided_velocity(condition, gamma=gamma)(x, t)
        if teacher.embedded
        else teacher(x, t, condition)
    )
    own = {"gamma": gamma} if teacher.embedded else {}
    assert torch.equal(asked(net, family), net.backbone(x, t, condition, **own))
    torch.testing.assert_close(
        asked(net, family), expected, atol=1e-6, rtol=1e-6
    )  # a copy's memory may be aligned otherwise
    assert set(net.embedders) == ({"delta"} if teacher.embedded else {"delta", "gamma"})
    assert set(net.backbone.state_dict()) == set(teacher.function.state_dict())
    prefix = next(iter(time_embeddings(net.backbone))).split("net.net.")[-1]
    assert EXPECTED.get(name, prefix) == prefix
    net.train()
    asked(net, family).square().mean().backward()
    for embedder in net.embedders.values():
        assert embedder.mlp[2].weight.grad.abs().max() > 0
    backbone = [p.grad for p in net.backbone.parameters() if p.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in backbone) > 0


def test_delta_and_gamma_matter_row_by_row(family):
    _, teacher, _, _, _, delta, gamma = family
    net = switched_on(student(teacher)).requires_grad_(False)
    out = asked(net, family)
    moved = asked(net, family, delta=delta + torch.tensor([0.2, 0.0]))
    assert (moved[0] - out[0]).abs().max() > 1e-4
    torch.testing.assert_close(moved[1], out[1], atol=1e-5, rtol=1e-5)
    moved = asked(net, family, gamma=gamma + torch.tensor([0.0, 0.5]))
    assert (moved[1] - out[1]).abs().max() > 1e-4
    torch.testing.assert_close(moved[0], out[0], atol=1e-5, rtol=1e-5)


def test_the_exact_derivative_by_delta_agrees_with_differences(family):
    _, teacher, x, t, condition, delta, gamma = family
    net = switched_on(student(teacher)).requires_grad_(False)
    F = lambda z, delta: net(z, t, condition, delta=delta, gamma=gamma)
    exact = ExactJVP()(F, x, delta)
    h = 0.01
    central = (F(x, delta + h) - F(x, delta - h)) / (2 * h)
    scale = central.abs().max()
    assert scale > 1e-3
    torch.testing.assert_close(exact, central, atol=5e-3 * float(scale), rtol=0)


COMPILED = ["sd3", "flux", "qwen", "sana", "wan", "dit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_a_student_compiles_to_one_graph(name, tmp_path):
    """Forward and backward, without a graph break, and once for many values of the scalars."""
    tiny = TINY[name]
    with quiet():
        tiny.save(tmp_path)
    torch.manual_seed(1)
    condition = tiny.condition(2)
    teacher = DiffusersTeacher(tmp_path, Given(condition, condition), latent_size=tiny.size)
    net = switched_on(student(teacher)).train()
    x = torch.randn(2, *teacher.sample_shape)
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=graphs, fullgraph=True)
    for seed in range(3):
        t, delta, gamma = torch.rand(3, 2, generator=torch.Generator().manual_seed(seed))
        out = compiled(x, t, condition, delta=delta, gamma=1 + gamma)
        torch.testing.assert_close(
            out, net(x, t, condition, delta=delta, gamma=1 + gamma), atol=1e-4, rtol=1e-4
        )
        out.square().mean().backward()
    assert graphs.frame_count == 1
