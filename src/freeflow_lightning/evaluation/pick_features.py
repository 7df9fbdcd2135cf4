"""Which feature network an evaluation sees samples with."""

import logging
import math
from collections.abc import Callable
from typing import Literal

import torch

from freeflow_lightning.metrics import (
    DigitsFeatures,
    DINOv2Features,
    FacesFeatures,
    FeatureNetwork,
    FlatFeatures,
    InceptionFeatures,
    Lite0Features,
)
from freeflow_lightning.metrics.inception import default_weights
from freeflow_lightning.metrics.lite0 import INSTALL, is_installed
from freeflow_lightning.teachers import Teacher

log = logging.getLogger(__name__)

Name = Literal["auto", "faces", "digits", "lite0", "flat", "inception", "dinov2"]
SHIPPED: dict[str, Callable[[], FeatureNetwork]] = {
    "faces": FacesFeatures,
    "digits": DigitsFeatures,
    "lite0": Lite0Features,
}
FROM_FILE: dict[str, Callable[[str | None], FeatureNetwork]] = {
    "inception": InceptionFeatures,
    "dinov2": DINOv2Features,
}
ALTERNATIVES = (
    f"or take --features lite0 ({INSTALL}), flat (small samples), dinov2 or inception with "
    f"--weights FILE, or a class_path of your own"
)
SMALLEST_PICTURE = 32
MOST_FLAT = 8192


def pick_features(
    features: Name | FeatureNetwork,
    weights: str | None,
    teacher: Teacher,
    device: torch.device | str,
) -> FeatureNetwork:
    """Return the named network, or the user's own, on the device, frozen.

    Args:
        features: a name or a network. "auto" is the digits' or faces' own for samples of their
            shape and classes; for pictures of at least 32 pixels Inception where its weights are,
            and else lite0; the plain numbers otherwise.
        weights: file of Inception's or DINOv2's weights.
        teacher: tells what samples look like.
        device: where to put it.

    Raises:
        ValueError: weights for a network that takes none; samples too large to be compared flat.
        FileNotFoundError: no weights; the message says which file to put where, and what to take
            instead.
    """
    if isinstance(features, str):
        origin = torch.zeros(1, *teacher.sample_shape, device=device)
        shape = tuple(teacher.decode(origin).shape[1:])
        name: str = features
        if name == "auto":
            name = _automatic(shape, teacher.num_classes, weights)
        _refuse_weights(weights, name)
        return _build(name, weights, math.prod(shape)).to(device)
    _refuse_weights(weights, type(features).__name__)
    return features.to(device).eval().requires_grad_(False)


def _refuse_weights(weights: str | None, name: str) -> None:
    if weights is not None and name not in FROM_FILE:
        raise ValueError(
            f"--weights is a file for --features inception or dinov2, and these samples are seen "
            f"by {name}: leave it out"
        )


def _build(name: str, weights: str | None, size: int) -> FeatureNetwork:
    """Return the network of a name, for samples of `size` numbers."""
    try:
        if name in FROM_FILE:
            return FROM_FILE[name](weights)
        if name in SHIPPED:
            return SHIPPED[name]()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {ALTERNATIVES}") from error
    if size > MOST_FLAT:
        raise ValueError(
            f"--features flat compares covariances of all {size} numbers of a sample, "
            f"{MOST_FLAT} at most: take lite0, inception, dinov2 or a class_path of your own"
        )
    return FlatFeatures(size)


def _automatic(shape: tuple[int, ...], num_classes: int, weights: str | None) -> str:
    """Return the name of the network that suits samples of a shape."""
    if shape == (1, 8, 8):
        return "digits"
    if shape == (3, 16, 16) and num_classes == FacesFeatures.num_classes:
        return "faces"
    if len(shape) != 3 or min(shape[1:]) < SMALLEST_PICTURE:
        return "flat"
    if weights is not None or default_weights().is_file() or not is_installed():
        return "inception"
    log.warning(
        "no Inception weights at %s: features are lite0's, %s",
        default_weights(),
        Lite0Features.note,
    )
    return "lite0"
