"""Students of diffusers networks: through a folder and back, and as their family's stock pipeline in one step."""

import json

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.students.export import seal
from freeflow_lightning.students.export.text_pipeline import add_stock_pipeline, call_of, fold
from freeflow_lightning.teachers import DiffusersTeacher, Prompts
from freeflow_lightning.teachers.prompt_files import write_prompts
from teachers.diffusers.test_pipelines import Given, arguments
from teachers.tiny_diffusers import TINY, quiet

GAMMA = 2.5
REFUSED = {"flux2": "ends without a bias", "mochi": "divides by zero for one step"}


def student(name, folder, **settings):
    """A student of a tiny pipeline whose delta and gamma have an effect, and two conditions."""
    tiny = TINY[name]
    with quiet():
        tiny.save(folder)
    torch.manual_seed(1)
    condition = tiny.condition(2)
    conditions = Given(condition, condition) if tiny.call else None
    teacher = DiffusersTeacher(folder, conditions, latent_size=tiny.size, **settings)
    net = ScalarConditioned(teacher.network(), ("delta", "gamma"))
    with torch.no_grad():
        for p in net.embedders.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return FlowMap(net, teacher, (1.0, 5.0)), condition if tiny.call else condition["class_labels"]


def stock(made, folder, parts=True, gamma=GAMMA, jumps=ONE_STEP):
    folder.mkdir()
    manifest = made.write_to(folder)
    settings = (made.teacher, gamma, parts, jumps)
    with quiet():
        manifest = add_stock_pipeline(folder, manifest, made.network, *settings)
    return seal(folder, manifest)


def one_step(name, folder, z, condition, call):
    """What the folder's pipeline draws from the noise, run by diffusers alone."""
    from diffusers import DiffusionPipeline

    tiny = TINY[name]
    index = json.loads((folder / "model_index.json").read_text())
    absent = {
        part: None for part, value in index.items() if isinstance(value, list) and value[0] is None
    }
    with quiet():
        pipe = DiffusionPipeline.from_pretrained(folder, **absent)
    assert type(pipe).__name__ == tiny.pipeline
    pipe.set_progress_bar_config(disable=True)
    for attribute, value in tiny.attributes.items():
        setattr(pipe, attribute, value)
    if not tiny.call:  # DiT's pipeline returns pictures alone
        pipe.scheduler.set_timesteps(1)
        (k,) = pipe.scheduler.timesteps
        return pipe.scheduler.step(
            pipe.transformer(z, k.expand(2), condition).sample[:, :4], k, z
        ).prev_sample
    size = {"height": tiny.size[-2] * tiny.scale, "width": tiny.size[-1] * tiny.scale}
    given = {k: v for k, v in tiny.arguments.items() if not k.startswith("negative_") or v is None}
    with quiet():
        how = {"output_type": "latent", "return_dict": False, "latents": z}
        return pipe(**arguments(tiny, condition), **given, **size, **call, **how)[0]


@pytest.mark.parametrize("name", [name for name in TINY if name not in REFUSED])
@torch.no_grad()
def test_the_stock_pipeline_is_the_student(name, tmp_path):
    made, condition = student(name, tmp_path / "teacher")
    manifest = stock(made, tmp_path / "out")
    z = torch.randn(2, *made.teacher.sample_shape)
    x = made(z, condition, GAMMA)
    drawn = one_step(name, tmp_path / "out", z.clone(), condition, manifest["call"]).view_as(x)
    scale = float(x.abs().max())
    torch.testing.assert_close(drawn, x, atol=2e-5 * scale, rtol=1e-4)
    for other in (
        z + made.teacher(z, torch.ones(2), condition),
        made(z, condition, 1.3),
    ):  # neither teacher nor another gamma
        assert (other - x).abs().max() > 1e-3 * scale

    again = FlowMap.from_pretrained(tmp_path / "out")  # with all gammas, in spite of the fold
    for gamma in (GAMMA, 1.3):
        assert torch.equal(again(z, condition, gamma), made(z, condition, gamma))
    assert torch.equal(again(z, condition, delta=0.3), made(z, condition, delta=0.3))
    torch.testing.assert_close(
        made(z, condition, GAMMA), x, rtol=0, atol=0
    )  # and the student itself is as before


@pytest.mark.parametrize("name", ["sd3", "flux"])
@torch.no_grad()
def test_a_chain_of_fixed_steps_is_the_stock_pipeline_with_its_noise_levels(name, tmp_path):
    made, condition = student(name, tmp_path / "teacher")
    made.about["pairs"] = "any to any"
    manifest = stock(made, tmp_path / "out", jumps=Jumps(3))
    z = torch.randn(2, *made.teacher.sample_shape)
    x = made.jump(z, condition, GAMMA, Jumps(3))
    drawn = one_step(name, tmp_path / "out", z.clone(), condition, manifest["call"]).view_as(x)
    torch.testing.assert_close(drawn, x, atol=5e-5 * float(x.abs().max()), rtol=1e-3)
    assert (made(z, condition, GAMMA) - x).abs().max() > 1e-3 * x.abs().max()


@pytest.mark.parametrize(("name", "jumps"), [("sd15", Jumps(2)), ("sd3", Jumps(2, "renoise"))])
def test_steps_that_a_stock_pipeline_cannot_take_are_refused(name, jumps, tmp_path):
    made, _ = student(name, tmp_path / "teacher")
    with pytest.raises(ValueError, match="more than one step of a flow alone, as a chain"):
        stock(made, tmp_path / "out", jumps=jumps)


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_take_no_single_step_are_refused(name, tmp_path):
    made, condition = student(name, tmp_path / "teacher")
    with pytest.raises(ValueError, match=REFUSED[name]):
        stock(made, tmp_path / "out")
    made.save_pretrained(tmp_path / "plain")
    z = torch.randn(2, *made.teacher.sample_shape)
    assert torch.equal(
        FlowMap.from_pretrained(tmp_path / "plain")(z, condition), made(z, condition)
    )


@torch.no_grad()
def test_a_fold_that_is_not_the_student_is_refused(tmp_path, monkeypatch):
    made, _ = student("sd3", tmp_path / "teacher")
    wrong = fold(made.network, 1.0)
    monkeypatch.setattr(
        "freeflow_lightning.students.export.text_pipeline.fold", lambda *others: wrong
    )
    with pytest.raises(
        ValueError, match=r"cannot be folded into the time embedding of SD3Transformer2DModel"
    ):
        stock(made, tmp_path / "out")
    before = {
        name: tensor for name, tensor in made.network.named_parameters() if name in wrong.before
    }
    assert all(torch.equal(before[name], wrong.before[name]) for name in before)


def test_prompts_are_given_where_the_folder_cannot_hold_them(tmp_path):
    made, condition = student("sd3", tmp_path / "teacher")
    rows = {name: tensor.contiguous() for name, tensor in condition.items()}
    write_prompts(
        tmp_path / "embeddings", [rows], {name: tensor[:1] * 0 for name, tensor in rows.items()}
    )
    made.teacher.conditions = Prompts(tmp_path / "embeddings")
    made.save_pretrained(tmp_path / "out")
    again = FlowMap.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=r"conditioned on embedded prompts .*--prompts FOLDER"):
        again.sample(2)
    assert torch.equal(again.sample(2, condition), made.sample(2, condition))
    whole = FlowMap.from_pretrained(tmp_path / "out", conditions=Prompts(tmp_path / "embeddings"))
    assert torch.equal(whole.sample(5), made.sample(5))


def test_the_teacher_is_not_needed_and_types_are_kept(tmp_path):
    made, condition = student("sd3", tmp_path / "teacher", dtype="bfloat16")
    made.save_pretrained(tmp_path / "out")
    for path in sorted((tmp_path / "teacher").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    again = FlowMap.from_pretrained(tmp_path / "out")
    z = torch.randn(2, *made.teacher.sample_shape)
    assert torch.equal(again(z, condition), made(z, condition))
    kinds = {name: p.dtype for name, p in made.network.named_parameters()}
    assert {name: p.dtype for name, p in again.network.named_parameters()} == kinds
    with pytest.raises(ValueError, match=r"has no VAE"):
        again.teacher.decode(z)


@pytest.mark.parametrize(
    ("name", "call"), [("zimage", {"guidance_scale": 0.0}), ("qwen", {"true_cfg_scale": 1.0})]
)
def test_the_call_turns_the_pipelines_own_guidance_off(name, call, tmp_path):
    made, _ = student(name, tmp_path / "teacher")
    assert call_of(made.teacher, GAMMA) == {"num_inference_steps": 1} | call


def test_a_model_that_embeds_guidance_keeps_it_as_an_input(tmp_path):
    made, _ = student("flux", tmp_path / "teacher")
    manifest = stock(made, tmp_path / "out")
    assert manifest["call"]["guidance_scale"] == GAMMA
    assert manifest["folded_guidance"] is None
    z, condition = torch.randn(2, *made.teacher.sample_shape), TINY["flux"].condition(2)
    drawn = one_step(
        "flux", tmp_path / "out", z.clone(), condition, manifest["call"] | {"guidance_scale": 4.0}
    )
    with torch.no_grad():
        torch.testing.assert_close(drawn, made(z, condition, 4.0), atol=1e-4, rtol=1e-4)
