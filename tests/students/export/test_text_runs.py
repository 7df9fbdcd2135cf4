"""A text-to-image student as users meet it: embed, fit, export, and a prompt to a picture by diffusers alone."""

import json
from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.teachers import Prompts
from students.export.test_pipeline import without_package
from teachers.diffusers.test_runs import embed, run, save_whole, write_config

PROMPT = """
import json, sys, torch
sys.modules["freeflow_lightning"] = None
from diffusers import DiffusionPipeline
for name, call in json.loads(sys.argv[1]).items():
    pipe = DiffusionPipeline.from_pretrained(f"{name}/out")  # no code in the folder, so no trust_remote_code
    pipe.set_progress_bar_config(disable=True)
    z = torch.load(f"{name}/z.pt")
    torch.save(pipe("a cat", latents=z, output_type="pt", **call).images, f"{name}/picture.pt")
    pipe("the red dog", **call).images[0].save(f"{name}/picture.png")
"""
LORAS = {"sd3": None, "sana": {"rank": 2}, "sd15": None}
CALL = {"num_inference_steps": 1, "guidance_scale": 1.0}
SIZES = {
    name: {"height": 64, "width": 64}
    if name != "sana"
    else {"height": 256, "width": 256, "use_resolution_binning": False}
    for name in LORAS
}


@pytest.mark.slow
def test_from_a_prompt_to_a_picture_without_this_package(freeflow, tmp_path, monkeypatch):
    pictures = {}
    for name in LORAS:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        export(freeflow, name)
        pictures[name] = picture()
    calls = {name: CALL | size for name, size in SIZES.items()}
    without_package(PROMPT, json.dumps(calls), cwd=tmp_path)
    sample = ("sample", "--checkpoint", "out", "--prompts", "embeddings", "--num_samples", 2)
    for name, expected in pictures.items():
        monkeypatch.chdir(tmp_path / name)
        torch.testing.assert_close(torch.load("picture.pt"), expected, atol=2e-2, rtol=0)
        assert Path("picture.png").is_file()
        run(freeflow, *sample, "--device", "cpu")
        assert len(list(Path("samples").glob("0*.png"))) == 2


def export(freeflow, name):
    """A pipeline in out/, from a student of prompts in embeddings/; its teacher is gone."""
    save_whole(name)
    embed(freeflow)
    write_config(name, **({"lora": LORAS[name]} if LORAS[name] else {}))
    run(freeflow, "fit", "--config", "run.yaml")
    words = ("--output", "out", "--pipeline", "--guidance", 1.5, "--device", "cpu")
    run(freeflow, "export", "--checkpoint", "runs/run", *words)
    assert not list(Path("out").rglob("*.py"))
    assert "num_inference_steps=1, guidance_scale=1" in Path("out/README.md").read_text()
    Path("model").rename("gone")


def picture():
    """What the student in out/ makes of the first prompt, "a cat", and noise that is left in z.pt."""
    student = FlowMap.from_pretrained("out", conditions=Prompts("embeddings"))
    condition = student.teacher.conditions.rows(torch.tensor([0]))
    z = torch.randn(1, *student.teacher.sample_shape)
    torch.save(z, "z.pt")
    return (student.teacher.decode(student(z, condition, 1.5)) / 2 + 0.5).clamp(0, 1)
