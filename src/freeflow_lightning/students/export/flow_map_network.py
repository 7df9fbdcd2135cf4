"""A student's network as a model of diffusers. Exported folders hold this file with all that it
uses, in one (`bundle`).
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

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
from freeflow_lightning.teachers.discrete_path import DiscretePath
from freeflow_lightning.teachers.edm import EDMVelocity
from freeflow_lightning.teachers.gaussian_path import (
    LinearPath,
    PathVelocity,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from freeflow_lightning.teachers.sit_velocity import Convention, SiTVelocity

MAKERS: dict[str, Callable[..., Any]] = {
    "ScalarConditioned": ScalarConditioned,
    "StateConditioned": StateConditioned,
    "SecondState": SecondState,
    "SplitConditioned": SplitConditioned,
    "SplitHead": SplitHead,
    "SiT": SiT,
    "MLP": MLP,
    "SiTVelocity": SiTVelocity,
    "Convention": Convention,
    "EDMVelocity": EDMVelocity,
    "PathVelocity": PathVelocity,
    "FirstChannels": FirstChannels,
    "LinearPath": LinearPath,
    "TrigonometricPath": TrigonometricPath,
    "VarianceExplodingPath": VarianceExplodingPath,
    "VariancePreservingPath": VariancePreservingPath,
    "DiscretePath": DiscretePath,
    "Tensor": lambda values: torch.tensor(values, dtype=torch.float64, device="cpu"),
}


def make(spec: Any) -> Any:
    """The object that the plain values describe."""
    if not isinstance(spec, dict) or "class" not in spec:
        return spec
    return MAKERS[spec["class"]](**{name: make(value) for name, value in spec["arguments"].items()})


class FlowMapNetwork(ModelMixin, ConfigMixin):
    """A flow map f(x, t, s) = x + (t - s) F(x, t, t - s, c, gamma), in the convention of diffusers'
    flow-map scheduler.

    Args:
        description: the student's network, as plain values.
    """

    @register_to_config
    def __init__(self, description: dict) -> None:
        super().__init__()
        self.student = make(description)

    def forward(
        self,
        sample: Tensor,
        r_timestep: Tensor,
        class_labels: Tensor | None = None,
        guidance: Tensor | None = None,
        timestep: Tensor | None = None,
    ) -> Tensor:
        """The mean velocity from data to noise between timestep and r_timestep: -F, [B, ...].

        Args:
            sample: states at timestep, [B, ...].
            r_timestep: where the jump ends, in [0, 1000], [B]; 0 is data.
            class_labels: [B], or None for a network without classes.
            guidance: gamma, [B]; 1 if not given.
            timestep: where the jump starts, [B]; the prior, 1000, if not given.
        """
        one = torch.ones(len(sample), device=sample.device)
        t = one if timestep is None else timestep.to(one) / 1000
        delta = t - r_timestep.to(one) / 1000
        gamma = one if guidance is None else guidance.to(one)
        return -self.student(sample, t, class_labels, delta=delta, gamma=gamma)
