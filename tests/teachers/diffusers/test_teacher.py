"""DiffusersTeacher: loading, refusals, conventions on the exact mixture, and whole runs on tiny pipelines."""

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from safetensors.torch import load_file, save_file
from torch import nn

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import (
    Classes,
    DiffusersTeacher,
    Family,
    GaussianMixtureTeacher,
    NoCondition,
    Prompts,
)
from freeflow_lightning.teachers.diffusers.families import FAMILIES
from freeflow_lightning.teachers.diffusers.family import TEXT, Call
from freeflow_lightning.teachers.diffusers.inputs import add_flux2_ids, add_flux_ids
from freeflow_lightning.teachers.diffusers.network import DiffusersNetwork, DiffusersVelocity
from freeflow_lightning.teachers.diffusers.teacher import ddpm_velocity
from freeflow_lightning.teachers.prompt_files import write_prompts
from teachers.diffusers.test_pipelines import Given
from teachers.mixture import LABELS, MEANS, STD, WEIGHTS, batch, posterior
from teachers.tiny_diffusers import DIT_BETAS, SD_BETAS, TINY, quiet

# The exact mixture, as a network of each convention would give it


class Exact(nn.Module):
    """A network of diffusers' signature whose output is exact: noise - data, data - noise, epsilon or v of the mixture."""

    def __init__(self, family, abars=None, prediction="flow", **config):
        super().__init__()
        self.family, self.abars, self.prediction = family, abars, prediction
        self.config = {"in_channels": 1, "timestep_scale": 1.0, "patch_size": 1} | config
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, return_dict, **arguments):
        assert return_dict is False
        x, time, label = (
            arguments[self.family.state],
            arguments[self.family.timestep],
            arguments["class_labels"],
        )
        if self.abars is None:
            a, b = self.family.time
            t = (time - a) / b
            data, noise = posterior(x.view(-1, 2), 1 - t, t, label)
            return (
                (-self.family.sign * (noise - data).view_as(x),)
                if self.family.sign > 0
                else ((noise - data).view_as(x),)
            )
        k = time.round().long()
        assert (time - k).abs().max() < 1e-3  # asked at whole steps alone here
        a, b = self.abars[k].sqrt(), (1 - self.abars[k]).sqrt()
        data, noise = posterior(x.view(-1, 2), a, b, label)
        v = a[:, None] * noise - b[:, None] * data
        return ((noise if self.prediction == "epsilon" else v).view_as(x),)


PLAIN = [
    name
    for name, row in FAMILIES.items()
    if row.prediction == "flow" and row.layout == "image" and row.state != "x"
]


@pytest.mark.parametrize(
    "name", [name for name in PLAIN if name not in ("CogView4Transformer2DModel",)]
)
def test_the_exact_mixture_in_a_familys_convention_is_the_exact_velocity(name):
    row = FAMILIES[name]
    net = DiffusersNetwork(
        Exact(row, use_meanflow=False),
        Family(row.time, row.sign, state=row.state, timestep=row.timestep),
        (2, 1),
    )
    check_exact(DiffusersVelocity(net))


@pytest.mark.parametrize("betas", [SD_BETAS, DIT_BETAS], ids=["Stable Diffusion", "DiT"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_exact_mixture_as_epsilon_or_v_is_the_exact_velocity(betas, prediction):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(**{key: betas[key] for key in ("beta_start", "beta_end")}, prediction_type=prediction,
                              beta_schedule=betas.get("beta_schedule", "linear"))  # fmt: skip
    abars = scheduler.alphas_cumprod.double()
    row = Family(prediction="from_scheduler", needs_scheduler=True)
    net = DiffusersNetwork(
        Exact(row, abars, prediction.removesuffix("_prediction")), row, (2, 1), scheduler.config
    )
    k = torch.randint(1000, (64,), generator=torch.Generator().manual_seed(0))
    sigma = ((1 - abars[k]) / abars[k]).sqrt()
    check_exact(ddpm_velocity(net), sigma / (1 + sigma))


def check_exact(function, t=None):
    x, drawn, label = batch()
    t = drawn if t is None else t
    exact = GaussianMixtureTeacher(MEANS, STD, WEIGHTS, LABELS)
    u = function(x.view(-1, 1, 2, 1), t, label).view(-1, 2)
    torch.testing.assert_close(u, exact.velocity(x, t, label), atol=1e-5, rtol=1e-5)


# Loading


def saved(name, folder):
    with quiet():
        TINY[name].save(folder)
    return folder


def test_a_network_alone_and_a_whole_pipeline_are_the_same_teacher(tmp_path):
    saved("sd3", tmp_path / "pipe")
    whole = DiffusersTeacher(tmp_path / "pipe", NoCondition())
    alone = DiffusersTeacher(tmp_path / "pipe" / "transformer", NoCondition())
    given = DiffusersTeacher(tmp_path / "pipe", NoCondition(), subfolder="transformer")
    for other in (alone, given):
        assert all(
            torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True)
        )
    assert whole.sample_shape == (4, 8, 8)


def test_dtype_is_that_of_the_weights_and_not_of_the_state(tmp_path):
    tiny = TINY["sd3"]
    condition = tiny.condition(2)
    exact = DiffusersTeacher(saved("sd3", tmp_path), Given(condition, condition))
    rough = DiffusersTeacher(tmp_path, Given(condition, condition), dtype="bfloat16")
    assert {p.dtype for p in rough.parameters()} == {torch.bfloat16}
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    u = rough.velocity(x, t, condition)
    assert u.dtype == torch.float32
    torch.testing.assert_close(u, exact.velocity(x, t, condition), atol=0.1, rtol=0.1)


def edited(folder, change):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def test_weights_that_do_not_fit_are_refused(tmp_path):
    saved("sd3", tmp_path)
    edited(tmp_path, lambda weights: weights.pop("proj_out.bias"))
    with (
        quiet(),
        pytest.raises(
            ValueError, match=r"do not fit SD3Transformer2DModel: missing.*proj_out\.bias"
        ),
    ):
        DiffusersTeacher(tmp_path, NoCondition())


def test_weights_that_are_left_over_are_said(tmp_path, caplog):
    saved("sd3", tmp_path)
    edited(tmp_path, lambda weights: weights.update(extra=torch.zeros(2)))
    with quiet():
        DiffusersTeacher(tmp_path, NoCondition())
    assert "no place for: ['extra']" in caplog.text


def test_pickled_weights_are_refused(tmp_path):
    saved("sd3", tmp_path)
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with quiet(), pytest.raises(ValueError, match=r"cannot be loaded: .*safetensors"):
        DiffusersTeacher(tmp_path, NoCondition())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sd3", {"conditions": None}, r"takes prompts: write embeddings with freeflow embed"),
        (
            "flux",
            {},
            r"does not say how large its latents are: give latent_size \(height and width\)",
        ),
        ("flux", {"latent_size": [7, 8]}, r"even latent_size"),
        ("wan", {"latent_size": [8, 8]}, r"latent_size as frames, height and width, got \[8, 8\]"),
        ("sd3", {"guidance": "pipeline"}, r"pipeline is linear"),
        ("sd3", {"guidance": "cubic"}, r"guidance 'linear' or 'pipeline'"),
        ("sd3", {"subfolder": "unet"}, r"no network in .*/unet"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, settings, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DiffusersTeacher(saved(name, tmp_path), **({"conditions": NoCondition()} | settings))


def test_embeddings_of_another_network_are_refused(tmp_path):
    text = {"encoder_hidden_states": torch.zeros(1, 5, 32)}
    write_prompts(tmp_path / "e", [text], text, {"network": "WanTransformer3DModel"})
    with pytest.raises(
        ValueError,
        match=r"are encoder_hidden_states for WanTransformer3DModel, and this network is SD3",
    ):
        DiffusersTeacher(saved("sd3", tmp_path / "m"), Prompts(tmp_path / "e"))


def test_a_pipeline_with_two_networks_is_refused(tmp_path):
    saved("wan", tmp_path)
    path = tmp_path / "model_index.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
        )
    )
    with pytest.raises(ValueError, match=r"two networks"):
        DiffusersTeacher(tmp_path, NoCondition(), latent_size=(2, 8, 8))


def test_a_ddpm_network_without_its_scheduler_is_refused(tmp_path):
    saved("sd15", tmp_path)
    with pytest.raises(ValueError, match=r"depends on its scheduler"):
        DiffusersTeacher(tmp_path / "unet", NoCondition())


# Classes of one's own


def test_an_unknown_class_is_refused_and_taken_with_its_essentials(tmp_path, monkeypatch):
    saved("sd3", tmp_path)
    condition = TINY["sd3"].condition(2)
    known = DiffusersTeacher(tmp_path, Given(condition, condition))
    monkeypatch.delitem(FAMILIES, "SD3Transformer2DModel")
    with pytest.raises(
        ValueError, match=r"SD3Transformer2DModel is not among .*pass its essentials as family"
    ):
        DiffusersTeacher(tmp_path, Given(condition, condition))
    own = DiffusersTeacher(
        tmp_path, Given(condition, condition), family=Family(time=(0.0, 1000.0), sign=-1)
    )
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    assert torch.equal(own(x, t, condition), known(x, t, condition))


@pytest.mark.parametrize("wrong", [{"sign": 2}, {"time": (1.0, 0.0)}, {"layout": "cube"}])
def test_essentials_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="expected time"):
        Family(**wrong)


# Guidance


def test_an_embedded_scale_is_asked_once_and_obeys_the_interval(tmp_path):
    condition = TINY["flux"].condition(3)
    teacher = DiffusersTeacher(saved("flux", tmp_path), Given(condition, condition), latent_size=8)
    x, t = torch.randn(3, *teacher.sample_shape), torch.tensor([0.3, 0.8, 0.3])
    gamma = torch.tensor([3.5, 3.5, 1.0])
    calls = []
    teacher.function.net.register_forward_hook(
        lambda module, inputs, output: calls.append(len(inputs[0]))
    )
    u = teacher.guided_velocity(condition, gamma=gamma, interval=(0.0, 0.5))(x, t)
    assert calls == [3]
    assert teacher.guided_evaluations == 1
    assert TeacherSampler(teacher, "heun", 3, 2.0).evaluations == 6
    torch.testing.assert_close(u[1:], teacher(x, t, condition)[1:])
    assert not torch.allclose(u[0], teacher(x, t, condition)[0], atol=1e-4)
    assert teacher.null_condition(condition) is condition


def test_z_image_counts_guidance_from_0(tmp_path):
    teacher = DiffusersTeacher(saved("zimage", tmp_path), NoCondition(), latent_size=8)
    assert teacher.gamma(3.0) == 4.0


def test_labels_are_not_dropped_in_training(tmp_path):
    teacher = DiffusersTeacher(saved("dit", tmp_path))
    assert isinstance(teacher.conditions, Classes)
    assert teacher.num_classes == 1000
    assert teacher.conditions.of_classes(torch.tensor([3])).tolist() == [3]
    net = teacher.network().train()
    x, t, labels = torch.randn(64, 4, 8, 8), torch.full((64,), 0.5), torch.arange(64)
    assert torch.equal(net(x, t, labels), net(x, t, labels))


@pytest.mark.parametrize(
    "name", ["qwen", "lumina2", "zimage", "hunyuanimage", "ltx", "sana", "pixart"]
)
@torch.no_grad()
def test_padding_behind_the_mask_changes_nothing(name, tmp_path):
    """Texts are padded to one length when they are drawn; the mask makes that exact."""
    tiny = TINY[name]
    condition = tiny.condition(2)
    teacher = DiffusersTeacher(
        saved(name, tmp_path), Given(condition, condition), latent_size=tiny.size
    )
    longer = {
        key: torch.cat([value, torch.zeros_like(value[:, :2])], dim=1) if value.ndim > 1 else value
        for key, value in condition.items()
    }
    x, t = torch.randn(2, *teacher.sample_shape), torch.tensor([0.3, 0.8])
    torch.testing.assert_close(
        teacher(x, t, longer), teacher(x, t, condition), atol=1e-5, rtol=1e-4
    )


# In a run


def test_processes_train_on_blocks_of_the_prompts_and_evaluate_on_all(tmp_path):
    saved("sd3", tmp_path / "m")
    text = TINY["sd3"].condition(6)
    text["pooled_projections"] = torch.arange(6.0)[:, None].expand(6, 16).contiguous()
    write_prompts(tmp_path / "e", [text], TINY["sd3"].condition(1), {})
    teachers = [DiffusersTeacher(tmp_path / "m", Prompts(tmp_path / "e")) for _ in range(2)]
    for rank, teacher in enumerate(teachers):
        module = FreeFlowModule(teacher, correction_fraction=0.0)
        module._trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=None)
        module.setup("fit")
        drawn = teacher.draw_condition(50, torch.Generator().manual_seed(0))["pooled_projections"][
            :, 0
        ]
        assert set(drawn.tolist()) == set(range(3 * rank, 3 * rank + 3))
    first, second = (
        teacher.draw_indexed(torch.arange(20), seed=0, stream="a")[1]["pooled_projections"]
        for teacher in teachers
    )
    assert torch.equal(first, second)
    assert first[:, 0].max() >= 3 > first[:, 0].min()


def test_recomputed_blocks_need_the_time_embedding_outside(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"blocks of \w+ embed the time themselves: leave activation_checkpointing out",
    ):
        FreeFlowModule(DiffusersTeacher(saved("dit", tmp_path)), activation_checkpointing=True)


@pytest.mark.parametrize("add", [add_flux_ids, add_flux2_ids])
def test_places_in_a_long_text_are_exact_in_every_precision(add):
    x, text = torch.zeros(1, 4, 4), torch.zeros(1, 300, 2)
    with HalfPrecision("bf16-true").forward_context():
        ids = add(Call(x, torch.ones(1), {TEXT: text}, (4, 600), {}, {}))
    assert ids["img_ids"].reshape(600, -1)[:300, 2].tolist() == list(range(300))
    if add is add_flux2_ids:
        assert ids["txt_ids"][0, :, 3].tolist() == list(range(300))  # bfloat16 knows 256 and 258
