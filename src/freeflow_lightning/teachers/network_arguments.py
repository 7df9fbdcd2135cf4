"""What each network of this package was constructed with, as its constructor takes it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from freeflow_lightning.nets import (
    MLP,
    ScalarConditioned,
    SecondState,
    SiT,
    SplitConditioned,
    SplitHead,
    StateConditioned,
)
from freeflow_lightning.teachers.ddpm import FirstChannels
from freeflow_lightning.teachers.diffusers.network import DiffusersNetwork, DiffusersVelocity
from freeflow_lightning.teachers.discrete_path import DiscretePath
from freeflow_lightning.teachers.edm import EDMVelocity
from freeflow_lightning.teachers.gaussian_path import (
    LinearPath,
    PathVelocity,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from freeflow_lightning.teachers.predictions import PREDICTIONS
from freeflow_lightning.teachers.sit_velocity import Convention, SiTVelocity, convention_name


def _conditioning(
    module: ScalarConditioned | StateConditioned | SplitConditioned,
) -> dict[str, Any]:
    return {
        "backbone": module.backbone,
        "time_module": module.time_module,
        "scale": {name: embedder.scale for name, embedder in module.embedders.items()},
    }


def _path_velocity(module: PathVelocity) -> dict[str, Any]:
    names = [name for name, function in PREDICTIONS.items() if function is module.prediction]
    if not names:
        raise ValueError(
            f"the student's prediction is a function of your own, which a folder cannot hold: "
            f"name one of {sorted(PREDICTIONS)}"
        )
    return {"net": module.net, "path": module.path, "prediction": names[0], "t_max": module.t_max}


ARGUMENTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    ScalarConditioned: lambda m: _conditioning(m) | {"scalars": list(m.scalars)},
    StateConditioned: lambda m: _conditioning(m) | {"second": m.second},
    SecondState: dataclasses.asdict,
    SplitConditioned: lambda m: _conditioning(m) | {"head": m.head},
    SplitHead: dataclasses.asdict,
    SiT: lambda m: m.architecture,
    MLP: lambda m: m.architecture,
    SiTVelocity: lambda m: {
        "net": m.net,
        "convention": convention_name(m.convention) or m.convention,
    },
    Convention: dataclasses.asdict,
    EDMVelocity: lambda m: {
        "net": m.net,
        "num_classes": m.num_classes,
        "data_scale": m.data_scale,
        **m.sigmas,
    },
    PathVelocity: _path_velocity,
    FirstChannels: lambda m: {"net": m.net},
    LinearPath: dataclasses.asdict,
    TrigonometricPath: dataclasses.asdict,
    VarianceExplodingPath: lambda p: {"sigma_min": p.sigma_min, "sigma_max": p.sigma_max},
    VariancePreservingPath: lambda p: {"tau_min": p.tau_min, "tau_max": p.tau_max},
    DiscretePath: lambda p: {"abars": p.abars, "whole_steps": p.whole_steps, "t_max": p.t_max},
    DiffusersVelocity: lambda m: {"net": m.net},
    DiffusersNetwork: lambda m: {
        "net": m.net,
        "family": m.family,
        "size": list(m.size),
        "scheduler": dict(m.scheduler),
    },
}
"""What each class of this package was constructed with."""
