"""One tiny model of each kind through freeflow embed, fit, resume and sample, as a user runs them."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from freeflow_lightning import FlowMap
from places import ROOT
from teachers.diffusers.test_previews import KL, VAES, vae
from teachers.tiny_diffusers import TINY, quiet
from teachers.tiny_encoders import encoders

KINDS = ["sd3", "flux", "sana", "wan", "sd15"]
DECODERS = VAES | {"sd15": lambda: vae("AutoencoderKL", **KL)}


def save_whole(name):
    """Pipeline with text encoders and VAE."""
    tiny, parts = TINY[name], TINY[name].extra
    with quiet():
        dataclasses.replace(
            tiny, extra=lambda: parts() | encoders(name) | {"vae": DECODERS[name]()}
        ).save("model")


def write_config(name, **changes):
    teacher = {
        "model": "model",
        "latent_size": list(TINY[name].size),
        "conditions": {
            "class_path": "freeflow_lightning.teachers.Prompts",
            "init_args": {"folder": "embeddings"},
        },
    }
    model = {
        "teacher": {
            "class_path": "freeflow_lightning.teachers.DiffusersTeacher",
            "init_args": teacher | changes.pop("teacher", {}),
        },
        "student_lr": 1.0e-3,
        "auxiliary_lr": 1.0e-3,
    }
    checkpoint = {"filename": "last", "every_n_train_steps": 2, "enable_version_counter": False}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "freeflow_lightning.FreeFlowModule", "init_args": model | changes},
        "data": {
            "init_args": {"batch_size": 4, "length": 10, "val_samples": 2, "val_batch_size": 2}
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 4,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": checkpoint,
                },
                {
                    "class_path": "freeflow_lightning.callbacks.StudentEMA",
                    "init_args": {"decays": [0.9]},
                },
                {
                    "class_path": "freeflow_lightning.callbacks.SampleGrid",
                    "init_args": {"count": 2, "steps": 1},
                },
            ],
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))


def metrics(version):
    with (Path("runs/run") / f"version_{version}" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {row["step"]: row["gradient/student"] for row in rows if row.get("gradient/student")}


def run(freeflow, *arguments):
    code, out, err = freeflow(*arguments)
    assert code == 0, err
    return out + err


def embed(freeflow):
    Path("prompts.txt").write_text("a cat\nthe red dog sits on the house\na photo of a big house\n")
    run(
        freeflow,
        "embed",
        "--model",
        "model",
        "--prompts",
        "prompts.txt",
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_embed_fit_resume_and_sample(name, freeflow):
    save_whole(name)
    embed(freeflow)
    write_config(name)
    run(freeflow, "fit", "--config", "run.yaml")
    run(freeflow, "fit", "--config", "run.yaml", "--trainer.max_steps", 2)
    run(freeflow, "fit", "--config", "run.yaml", "--ckpt_path", "last")
    assert metrics(0).keys() == {"0", "1", "2", "3"}
    assert metrics(1) == metrics(0)  # a resumed run is the uninterrupted one
    assert list(Path("runs/run/version_0/samples").glob("*.png"))
    checkpoint = "runs/run/version_1/checkpoints/last.ckpt"
    run(freeflow, "sample", "--checkpoint", checkpoint, "--num_samples", 2, "--device", "cpu")
    assert len(list(Path("samples").glob("0*.png"))) == 2
    student = FlowMap.from_checkpoint(checkpoint)
    assert torch.equal(student.sample(2), student.sample(3)[:2]) or torch.allclose(
        student.sample(2), student.sample(3)[:2], atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "flux", "sana"])
def test_with_lora_and_recomputed_activations_the_gradients_are_those_without(name, freeflow):
    pytest.importorskip("peft")
    save_whole(name)
    embed(freeflow)
    for version, checkpointing in enumerate((False, True)):
        write_config(name, lora={"rank": 2}, activation_checkpointing=checkpointing)
        run(freeflow, "fit", "--config", "run.yaml")
        assert metrics(version).keys() == {"0", "1", "2", "3"}
    first, second = (
        {step: float(value) for step, value in metrics(version).items()} for version in (0, 1)
    )
    assert second == pytest.approx(first, rel=1e-3)
    state = torch.load("runs/run/version_1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in key or "embedders" in key for key in state)


CONFIGS = {"sd35_medium_lora": "sd3", "flux1_dev_lora": "flux", "sana_lora": "sana"}


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_the_published_config_trains_a_tiny_pipeline(config, freeflow):
    """Everything as published but the model, the number of steps and processes, and what a CPU cannot afford."""
    pytest.importorskip("peft")
    path = ROOT / "configs" / f"{config}.yaml"
    assert path.read_text().startswith("# ")
    callbacks = yaml.safe_load(path.read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        arguments = callback.setdefault("init_args", {})
        for key, small in {
            "every_n_train_steps": 1,
            "count": 2,
            "delay_steps": 1,
            "warmup_steps": 1,
        }.items():
            if key in arguments:
                arguments[key] = small
        if "TrajectoryError" in callback["class_path"] or "SampleGrid" in callback["class_path"]:
            arguments["steps"] = 8
    name = CONFIGS[config]
    save_whole(name)
    embed(freeflow)
    run(
        freeflow, "fit", "--config", path, "--trainer.callbacks", yaml.safe_dump(callbacks, default_flow_style=True),
        "--model.teacher.model", "model", "--model.teacher.conditions.folder", "embeddings",
        "--model.teacher.latent_size", str(list(TINY[name].size)), "--trainer.accelerator", "cpu", "--trainer.devices", 1,
        "--trainer.strategy", "auto", "--trainer.accumulate_grad_batches", 1, "--trainer.max_steps", 2,
        "--trainer.log_every_n_steps", 1, "--trainer.enable_progress_bar", "false", "--data.length", 2,
        "--data.val_samples", 2,
    )  # fmt: skip
    folder = Path("runs") / config / "version_0"
    assert len(list((folder / "samples").glob("*.png"))) == 2
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"last.ckpt"}
    # what has been published trains in bfloat16: the weights of the adapters are float32 all the same
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
