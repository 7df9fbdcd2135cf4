"""LoRA adapters and diffusers teachers under every method beside FreeFlow's own."""

import json

import pytest
import torch

from freeflow_lightning import (
    DMDModule,
    FlowMap,
    FlowMapModule,
    PosteriorModule,
    TransitionModule,
)
from freeflow_lightning.nets import LoRA
from freeflow_lightning.teachers import DiffusersTeacher, Prompts, VelocityTeacher
from freeflow_lightning.teachers.prompt_files import write_prompts
from nets.random_weights import tiny_sit
from recipes.every_recipe import ANY_STEP
from teachers.tiny_diffusers import TINY, quiet
from tiny import data, fit, same, weights

METHODS = {
    "any-step": (FlowMapModule, ANY_STEP, "chain"),
    "dmd": (DMDModule, {"times": [1.0, 0.5], "auxiliary_updates": 2}, "renoise"),
    "posterior": (PosteriorModule, {}, "kernel"),
    "transition": (TransitionModule, {"match_steps": 2}, "transition"),
}


def tiny(folder):
    return VelocityTeacher(tiny_sit(seed=1), (3, 4, 4), 5)


def sd3(folder):
    """A pipeline of blocks that turn the text's tokens beside the state's."""
    kind = TINY["sd3"]
    if not (folder / "model").exists():
        with quiet():
            kind.save(folder / "model")
        given = kind.condition(4)
        null = {name: tensor[:1] for name, tensor in given.items()}
        network = json.loads((folder / "model/model_index.json").read_text())["transformer"][1]
        write_prompts(folder / "e", [given], null, {"network": network})
    return DiffusersTeacher(folder / "model", Prompts(folder / "e"), latent_size=kind.size)


def trained(name, teacher, start=None, steps=4):
    recipe, settings, _ = METHODS[name]
    lora = LoRA(rank=2, networks=["student"] if name == "posterior" else ["student", "auxiliary"])
    torch.manual_seed(0)
    m = recipe(teacher, lora=lora, student_lr=1e-2, check_teacher=False, **settings)
    before = weights(m.student)
    trainer = fit(m, prior=data(batch_size=4, val_samples=0), ckpt_path=start, max_steps=steps)
    assert not same(before, weights(m.student))
    return m, trainer


@pytest.mark.parametrize("build", [tiny, pytest.param(sd3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_adapters_train_resume_bit_equal_and_leave_their_teacher(name, build, tmp_path):
    whole, _ = trained(name, build(tmp_path))
    _, stopped = trained(name, build(tmp_path), steps=2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, trainer = trained(name, build(tmp_path), tmp_path / "half.ckpt")
    assert same(weights(resumed.student), weights(whole.student))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    teacher, how = build(tmp_path), {"steps": 2, "sampler": METHODS[name][2]}
    student = FlowMap.from_checkpoint(tmp_path / "last.ckpt", teacher=teacher)
    student.save_pretrained(tmp_path / "out")
    prompts = {} if build is tiny else {"conditions": teacher.conditions}
    again = FlowMap.from_pretrained(tmp_path / "out", **prompts)
    assert not any("lora" in key for key in again.network.state_dict())
    torch.testing.assert_close(
        again.sample(3, **how), student.sample(3, **how), atol=1e-4, rtol=1e-3
    )
