"""The smallest things that train: a mixture of three Gaussians in the plane, an MLP, a trainer without bars and files."""

import sys

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from freeflow_lightning import FlowMap, FreeFlowModule, PriorDataModule
from freeflow_lightning.flow import join, training_generator
from freeflow_lightning.nets import MLP
from freeflow_lightning.objectives import DiscretePrediction
from freeflow_lightning.students.student_parts import StudentParts
from freeflow_lightning.teachers import GaussianMixtureTeacher, VelocityTeacher

CLASSES = 2


def mixture() -> GaussianMixtureTeacher:
    return GaussianMixtureTeacher([[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0]], 0.4, labels=[0, 1, 1])


PLANE = {
    "teacher": {
        "class_path": "GaussianMixtureTeacher",
        "init_args": {"means": [[2.0, 0.0], [-2.0, 0.5]], "std": 0.4, "labels": [0, 1]},
    },
    "network": {
        "class_path": "freeflow_lightning.nets.MLP",
        "init_args": {"sample_shape": [2], "num_classes": 2},
    },
}
"""Teacher and network of a config: two classes in the plane."""


def by_arguments_and_by_recipe(place):
    """A checkpoint's student, which its recipe had no part in, and the same one as its recipe builds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "freeflow_lightning.students.training_module", None)
        alone = FlowMap.from_checkpoint(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentParts, "are_said", lambda config: False)
        return alone, FlowMap.from_checkpoint(place)


def shaken(net: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """Weights that are a function of the seed, nowhere 0."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g))
    return net


def mlp(seed: int = 0) -> nn.Module:
    return shaken(MLP((2,), hidden_size=16, depth=2, num_classes=CLASSES), seed)


def learned_teacher(seed: int = 1) -> VelocityTeacher:
    """A teacher with parameters."""
    return VelocityTeacher(mlp(seed), (2,), CLASSES)


def module(teacher=None, shake: bool = True, **changes) -> FreeFlowModule:
    settings = {
        "network": mlp(),
        "prediction": DiscretePrediction(4),
        "student_lr": 1e-2,
        "auxiliary_lr": 1e-2,
    } | changes
    made = FreeFlowModule(mixture() if teacher is None else teacher, **settings)
    return with_shaken_networks(made) if shake else made


def with_shaken_networks(recipe):
    """The recipe, in which delta and gamma have an effect: they have none at the start."""
    for seed, network in enumerate(recipe.networks().values()):
        shaken(network, seed)
    return recipe


def drawn_together(m: FreeFlowModule, size: int, batch: int, processes: int = 2) -> list:
    """The draws of a batch counter on so many processes as those of one; every row is evaluated, which changes nothing."""
    m.skip_idle_rows = False
    each = zip(
        *(m.draw(size, training_generator(0, rank, batch)) for rank in range(processes)),
        strict=True,
    )
    return [type(draws[0])(*(join(*parts) for parts in zip(*draws, strict=True))) for draws in each]


def trainer(**changes) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "max_steps": 4,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(**(quiet | changes))


def data(**changes) -> PriorDataModule:
    return PriorDataModule(**({"batch_size": 8, "length": 4} | changes))


def fit(
    model: FreeFlowModule,
    *callbacks,
    prior: PriorDataModule | None = None,
    ckpt_path=None,
    **changes,
) -> Trainer:
    made = trainer(callbacks=list(callbacks), **changes)
    made.fit(model, data() if prior is None else prior, ckpt_path=ckpt_path)
    return made


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """Bit for bit, in nested dicts and lists too."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
