"""Configs and checkpoints of 0.1.0, which name classes by the modules of that version."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.teachers.reading.trust import find_object
from freeflow_lightning.training.old_names import MODULES, find_new_path, use_new_paths
from tiny import fit, module

PATHS = {
    "freeflow_lightning.module.FreeFlowModule": "freeflow_lightning.recipes.freeflow",
    "freeflow_lightning.flow_matching.FlowMatchingModule": "freeflow_lightning.recipes.flow_matching",
    "freeflow_lightning.data.PriorDataModule": "freeflow_lightning.training.data",
    "freeflow_lightning.digits.DigitsDataModule": "freeflow_lightning.examples.digits.data",
    "freeflow_lightning.flow.flow_map.CentralDifference": "freeflow_lightning.flow.derivative",
    "freeflow_lightning.metrics.dino.DINOv2Features": "freeflow_lightning.metrics.dinov2",
    "freeflow_lightning.parallel.FSDP2": "freeflow_lightning.training.strategies",
    "freeflow_lightning.search.TargetDistance": "freeflow_lightning.students.search.verifiers",
    "freeflow_lightning.search.verifiers.ClassScore": "freeflow_lightning.students.search.verifiers",
    "freeflow_lightning.teachers.diffusers.DiffusersTeacher": "freeflow_lightning.teachers.diffusers.teacher",
    "freeflow_lightning.teachers.sit.SiTVelocity": "freeflow_lightning.teachers.sit_velocity",
}
OLD = {
    "class_path": "freeflow_lightning.module.FreeFlowModule",
    "init_args": {
        "teacher": {
            "class_path": "freeflow_lightning.teachers.gaussian_mixture.GaussianMixtureTeacher",
            "init_args": {
                "means": [[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0]],
                "std": 0.4,
                "labels": [0, 1, 1],
            },
        },
        "network": {
            "class_path": "freeflow_lightning.nets.mlp.MLP",
            "init_args": {"sample_shape": [2], "hidden_size": 16, "depth": 2, "num_classes": 2},
        },
        "prediction": {
            "class_path": "freeflow_lightning.objectives.prediction.ContinuousPrediction",
            "init_args": {
                "derivative": {"class_path": "freeflow_lightning.flow.flow_map.CentralDifference"}
            },
        },
    },
}


@pytest.mark.parametrize("path", PATHS)
def test_a_class_path_of_0_1_0_leads_to_its_class(path):
    found = find_object(find_new_path(path))
    assert found.__name__ == path.rpartition(".")[2]
    assert found.__module__ == PATHS[path]


@pytest.mark.parametrize("module", MODULES.values())
def test_every_module_of_the_table_is_there(module):
    assert find_spec(f"freeflow_lightning.{module}") is not None


@pytest.mark.parametrize(
    "text",
    ["freeflow_lightning.FreeFlowModule", "freeflow_lightning.module", "module.Net", "data.x.csv"],
)
def test_everything_else_stays(text):
    assert use_new_paths({"a": [text, 1, (text, None)]}) == {"a": [text, 1, (text, None)]}


def test_a_checkpoint_of_0_1_0_opens(tmp_path):
    trained = module()
    fit(trained, max_steps=2).save_checkpoint(tmp_path / "new.ckpt")
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] = OLD
    del checkpoint["freeflow_lightning"]  # which 0.1.0 did not write
    torch.save(checkpoint, tmp_path / "old.ckpt")
    student = FlowMap.from_checkpoint(tmp_path / "old.ckpt")
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1])
    assert torch.equal(student(z, labels, 1.5), trained.generate(z, labels))


def test_a_config_of_0_1_0_trains(freeflow):
    settings = {
        "model": OLD,
        "data": {
            "class_path": "freeflow_lightning.data.PriorDataModule",
            "init_args": {"batch_size": 4, "length": 1},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "freeflow_lightning.callbacks.HealthMonitor",
                    "init_args": {"least_diversity": 0.7},
                }
            ],
        },
    }
    Path("old.yaml").write_text(json.dumps(settings))
    code, _, error = freeflow("fit", "--config", "old.yaml")
    assert code == 0, error
    written = Path("runs/old/version_0/config.yaml").read_text()
    assert "freeflow_lightning.recipes.freeflow.FreeFlowModule" in written
    assert "freeflow_lightning.module" not in written
    assert "least_spread: 0.7" in written
