"""A text-to-image student as users meet it: embed, fit, export, and a prompt to a picture by diffusers alone."""

from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.teachers import Prompts
from students.export.test_pipeline import without_package
from teachers.diffusers.test_runs import embed, run, save_whole, write_config

PROMPT = """
import sys, torch
sys.modules["freeflow_lightning"] = None
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("out")  # no code in the folder, so no trust_remote_code
pipe.set_progress_bar_config(disable=True)
z = torch.load("z.pt")
call = eval(sys.argv[1])
torch.save(pipe("a cat", latents=z, output_type="pt", **call).images, "picture.pt")
pipe("the red dog", **call).images[0].save("picture.png")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lora"), [("sd3", None), ("sana", {"rank": 2}), ("sd15", None)])
def test_from_a_prompt_to_a_picture_without_this_package(name, lora, freeflow, tmp_path):
    save_whole(name)
    embed(freeflow)
    write_config(name, **({"lora": lora} if lora else {}))
    run(freeflow, "fit", "--config", "run.yaml")
    words = ("--output", "out", "--pipeline", "--guidance", 1.5, "--device", "cpu")
    run(freeflow, "export", "--checkpoint", "runs/run", *words)
    assert not list(Path("out").rglob("*.py"))
    Path("model").rename("gone")

    student = FlowMap.from_pretrained("out", conditions=Prompts("embeddings"))
    condition = student.teacher.conditions.rows(torch.tensor([0]))  # "a cat"
    z = torch.randn(1, *student.teacher.sample_shape)
    torch.save(z, "z.pt")
    size = (
        {"height": 64, "width": 64}
        if name != "sana"
        else {"height": 256, "width": 256, "use_resolution_binning": False}
    )
    card = Path("out/README.md").read_text()
    call = {"num_inference_steps": 1, "guidance_scale": 1.0}
    assert "num_inference_steps=1, guidance_scale=1" in card
    without_package(PROMPT, repr(call | size), cwd=tmp_path)
    expected = (student.teacher.decode(student(z, condition, 1.5)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(torch.load("picture.pt"), expected, atol=2e-2, rtol=0)
    assert Path("picture.png").is_file()
    run(
        freeflow,
        "sample",
        "--checkpoint",
        "out",
        "--prompts",
        "embeddings",
        "--num_samples",
        2,
        "--device",
        "cpu",
    )
    assert len(list(Path("samples").glob("0*.png"))) == 2
