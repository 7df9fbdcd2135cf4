"""Student: what every reader of a trained student returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from freeflow_lightning.teachers import Teacher

ABOUT = ("average", "averages", "steps", "evaluation_guidance", "config", "pairs", "starts")
"""Where a student comes from: which average, of which, after how many steps, its gamma, its
training's config, and between which times it was trained to map."""
OWN_NETWORKS = "own_networks"
"""Of a student from a folder: the constructor arguments of networks of the user's own, by class
path.
"""


class Student(NamedTuple):
    """A trained student as its file holds it; `FlowMap(*student)` draws with it.

    Args:
        network: (x, t, condition, delta=, gamma=) -> F.
        teacher: gives shapes, conditions and the decoder; often a `LatentSpace`, which has no
            velocity.
        guidance_range: the gammas that the student was trained for.
        about: where it comes from, as plain values: any of `ABOUT`, and
            `OWN_NETWORKS`.
    """

    network: nn.Module
    teacher: Teacher
    guidance_range: tuple[float, float]
    about: Mapping[str, Any]
