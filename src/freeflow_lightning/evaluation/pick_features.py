"""Which feature network an evaluation sees samples with."""

import math
from typing import Literal

import torch

from freeflow_lightning.metrics import (
    DigitsFeatures,
    DINOv2Features,
    FeatureNetwork,
    FlatFeatures,
    InceptionFeatures,
)
from freeflow_lightning.teachers import Teacher

Name = Literal["auto", "inception", "dinov2", "digits", "flat"]
SMALLEST_PICTURE = 32
MOST_FLAT = 8192


def pick_features(
    features: Name | FeatureNetwork,
    weights: str | None,
    teacher: Teacher,
    device: torch.device | str,
) -> FeatureNetwork:
    """The named network, or the user's own, on the device, frozen.

    Args:
        features: "auto" is the digits' own for pictures of 8 x 8, Inception for pictures of at
            least 32 pixels, and the plain numbers otherwise.
        weights: file of Inception's or DINOv2's weights.
        teacher: tells what samples look like.
        device: where to put it.

    Raises:
        ValueError: weights for a network that takes none; samples too large to be compared flat.
        FileNotFoundError: no weights; the message says which file to put where.
    """
    if weights is not None and features not in ("auto", "inception", "dinov2"):
        raise ValueError("--weights is a file for --features inception or dinov2: leave it out")
    if isinstance(features, str):
        shape = tuple(
            teacher.decode(torch.zeros(1, *teacher.sample_shape, device=device)).shape[1:]
        )
        picked = _automatic(shape) if features == "auto" else features
        if weights is not None and picked not in ("inception", "dinov2"):
            raise ValueError(
                f"--weights is a file for --features inception or dinov2, and these samples take "
                f"{picked!r}"
            )
        if picked == "inception":
            return InceptionFeatures(weights).to(device)
        if picked == "dinov2":
            return DINOv2Features(weights).to(device)
        if picked == "digits":
            return DigitsFeatures().to(device)
        if (size := math.prod(shape)) > MOST_FLAT:
            raise ValueError(
                f"--features flat compares covariances of all {size} numbers of a sample, "
                f"{MOST_FLAT} at most: take inception, dinov2 or a class_path of your own"
            )
        return FlatFeatures(size).to(device)
    return features.to(device).eval().requires_grad_(False)


def _automatic(shape: tuple[int, ...]) -> str:
    if shape == (1, 8, 8):
        return "digits"
    return "inception" if len(shape) == 3 and min(shape[1:]) >= SMALLEST_PICTURE else "flat"
