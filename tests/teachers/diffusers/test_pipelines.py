"""Each family's pipeline, run by diffusers itself, against `solve` with our velocity on the pipeline's own times."""

import pytest
import torch

from freeflow_lightning.flow import solve
from freeflow_lightning.teachers import DiffusersTeacher
from freeflow_lightning.teachers.conditions import Conditions
from teachers.tiny_diffusers import TINY, quiet

STEPS, SCALE = 4, 3.0


class Given(Conditions):
    """The first rows of a condition and its null."""

    def __init__(self, condition, null):
        self.condition, self.empty = condition, null

    def draw(self, n, generator):
        return {name: tensor[:n] for name, tensor in self.condition.items()}

    def null(self, condition):
        n = len(next(iter(condition.values())))
        return {name: tensor[:n] for name, tensor in self.empty.items()}


def arguments(tiny, condition, prefix=""):
    """A condition as the pipeline takes it."""
    found = {}
    for name, key in tiny.call.items():
        tensor = condition[key]
        if key == "cap_feats":
            tensor = [
                text[:n]
                for text, n in zip(tensor, condition["cap_feats_mask"].sum(1).tolist(), strict=True)
            ]
        if key == "encoder_hidden_states_llama3":
            tensor = tensor.transpose(0, 1)
        found[
            {"pooled_prompt_embeds": f"{prefix}pooled_prompt_embeds"}.get(name, f"{prefix}{name}")
        ] = tensor
    return found


def run_pipeline(tiny, net, latents, condition, null, scale, output_type="latent"):
    """What diffusers makes of the latents, and the times that it went through, in the paper's convention."""
    pipe = tiny.pipe(net)
    size = {"height": tiny.size[-2] * tiny.scale, "width": tiny.size[-1] * tiny.scale}
    guidance = {} if tiny.guidance == "guider" else {tiny.guidance: scale}
    embedded = bool(net.config.get("guidance_embeds"))
    call = (
        arguments(tiny, condition)
        | ({} if embedded else arguments(tiny, null, "negative_"))
        | size
        | guidance
    )
    if tiny.pipeline == "Flux2Pipeline":  # takes the latent before it is packed
        latents = latents.transpose(1, 2).unflatten(2, (tiny.size[0] // 2, tiny.size[1] // 2))
    how = {"num_inference_steps": STEPS, "output_type": output_type, "return_dict": False}
    out = pipe(**call, **tiny.arguments, **how, latents=latents)[0]
    return out, pipe.scheduler


FLOW = [name for name, tiny in TINY.items() if tiny.scheduler.startswith("FlowMatch")]


@pytest.mark.parametrize("name", FLOW)
@torch.no_grad()
def test_solve_follows_the_pipeline(name, tmp_path):
    tiny = TINY[name]
    with quiet():
        net = tiny.save(tmp_path)
    torch.manual_seed(1)
    condition, null = tiny.condition(2), tiny.condition(2)
    pipelines = "pipeline" if name in ("qwen", "lumina2") else "linear"
    teacher = DiffusersTeacher(
        tmp_path, Given(condition, null), latent_size=tiny.size, guidance=pipelines
    )
    z = torch.randn(2, *teacher.sample_shape)
    expected, scheduler = run_pipeline(tiny, net, z.clone(), condition, null, SCALE)
    inverted = scheduler.config.get("invert_sigmas", False)
    sigmas = scheduler.sigmas.double()
    grid = 1 - sigmas if inverted else sigmas
    gamma = torch.full((2,), teacher.gamma(SCALE))
    x = solve(
        lambda x, t, c: teacher.guided_velocity(c, gamma=gamma)(x, t),
        z,
        condition,
        grid=grid,
        method="euler",
    )
    torch.testing.assert_close(x.view_as(expected), expected, atol=2e-4, rtol=1e-4)
    assert (expected - z.view_as(expected)).abs().mean() > 0.1
    plain = solve(teacher, z, condition, grid=grid, method="euler")
    assert (plain.view_as(expected) - expected).abs().max() > 1e-3  # guidance has an effect


@pytest.mark.parametrize(
    "name", [name for name, tiny in TINY.items() if tiny.scheduler == "DDIMScheduler"]
)
@torch.no_grad()
def test_solve_follows_the_pipeline_with_ddim(name, tmp_path):
    """DDIM's steps are Euler's on the linear path, from the last step's noise to data."""
    tiny = TINY[name]
    with quiet():
        net = tiny.save(tmp_path)
    torch.manual_seed(1)
    condition, null = tiny.condition(2), tiny.condition(2)
    conditions = Given(condition, null) if tiny.call else None
    teacher = DiffusersTeacher(tmp_path, conditions, latent_size=tiny.size)
    condition = condition if tiny.call else condition["class_labels"]
    z = torch.randn(2, *teacher.sample_shape)
    if tiny.call:
        with quiet():
            expected, scheduler = run_pipeline(tiny, net, z.clone(), condition, null, SCALE)
    else:
        expected, scheduler = run_ddim(tiny, net, z.clone(), condition, SCALE)
    abars = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    sigmas = ((1 - abars) / abars).sqrt()
    grid = torch.cat([sigmas / (1 + sigmas), torch.zeros(1)])
    first = grid[0]
    start = z * (first**2 + (1 - first) ** 2).sqrt().float()
    gamma = torch.full((2,), SCALE)
    x = solve(
        lambda x, t, c: teacher.guided_velocity(c, gamma=gamma)(x, t),
        start,
        condition,
        grid=grid,
        method="euler",
    )
    torch.testing.assert_close(x, expected, atol=2e-3 * float(expected.abs().max()), rtol=1e-3)
    plain = solve(teacher, start, condition, grid=grid, method="euler")
    assert (plain - expected).abs().max() > 0.01 * expected.abs().max()


def run_ddim(tiny, net, x, labels, scale):
    """DiT's pipeline returns pictures alone, so its loop is written out."""
    scheduler = tiny.pipe(net).scheduler
    scheduler.set_timesteps(STEPS)
    both = torch.cat([labels, torch.full_like(labels, 1000)])
    for k in scheduler.timesteps:
        cond, null = net(torch.cat([x, x]), k.expand(4), both).sample[:, :4].chunk(2)
        x = scheduler.step(null + scale * (cond - null), k, x).prev_sample
    return x, scheduler
