"""Inception features of the published numbers: torch-fidelity's network, TensorFlow's resize,
weights read safely.
"""

import io
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from freeflow_lightning.metrics.features import FeatureNetwork
from freeflow_lightning.metrics.frechet import FrechetDistance
from freeflow_lightning.metrics.images import as_rgb

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
_SPATIAL_CHANNELS = 7


@final
class InceptionFeatures(FeatureNetwork):
    """The 2048 pooled Inception features, with ADM's 2023 spatial ones (sFID) and the 1008 logits
    without bias (IS).

    Pictures are resized as TensorFlow 1 does, without antialiasing, as ADM's evaluator does. The
    weights are never downloaded and nothing in their file is executed.

    Args:
        weights_path: torch-fidelity's weights-inception-2015-12-05-6726825d.pth; None for the one
            in torch.hub's folder.

    Raises:
        FileNotFoundError: no weights there; the message says which file to put where.
        ValueError: a file that holds more than tensors, or other weights.

    >>> InceptionFeatures("nowhere.pth")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: no Inception weights at nowhere.pth: ...
    """

    num_features = 2048

    def __init__(self, weights_path: str | None = None) -> None:
        super().__init__()
        network = _inception_network()
        self.version = f"torch-fidelity {version('torch-fidelity')}"
        path = default_weights() if weights_path is None else Path(weights_path)
        plain = io.BytesIO()  # torch-fidelity unpickles without restriction: it gets a copy that we wrote, not the file
        torch.save(_read_weights(path), plain)
        plain.seek(0)
        try:
            self.network = network("inception-v3-compat", ["2048", "logits_unbiased"], plain)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of {path} are not those of {_ORIGIN}: {error}"
            ) from error
        self.requires_grad_(False).eval()
        self._spatial: Tensor | None = None
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def forward(self, samples: Tensor) -> Tensor:
        """uint8 pictures [B, 3, H, W] or [B, 1, H, W] (grey: repeated) to [B, 2048].

        Raises:
            ValueError: other pictures.
        """
        return self.outputs(samples)["features"]

    def outputs(self, samples: Tensor) -> dict[str, Tensor]:
        """As `forward`, with "spatial" [B, 2023] (7 channels of 17 x 17, channels last) and
        "logits" [B, 1008].
        """
        seen = as_rgb(samples)
        # the padding of a rank's last batch dropped; the network cannot take none
        if not len(seen):
            spatial = seen.new_zeros(0, _SPATIAL_CHANNELS * 17 * 17, dtype=torch.float32)
            return {
                "features": spatial.new_zeros(0, 2048),
                "spatial": spatial,
                "logits": spatial.new_zeros(0, 1008),
            }
        with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
            features, logits = self.network(seen)
        kept, self._spatial = self._spatial, None
        assert kept is not None  # the hook has just put it there
        return {"features": features, "spatial": kept, "logits": logits}

    def _keep_spatial(self, module: Any, inputs: Any, output: Tensor) -> None:
        """ADM's "mixed_6/conv": the first 7 channels after the rectifier, in TensorFlow's order
        (channels last).
        """
        self._spatial = output[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


class InceptionFID(FrechetDistance):
    """FrechetDistance of InceptionFeatures: FID as ADM's evaluator computes it.

    Args:
        weights_path: as InceptionFeatures'.
    """

    def __init__(self, weights_path: str | None = None) -> None:
        super().__init__(InceptionFeatures(weights_path))


def default_weights() -> Path:
    """Return where Inception's weights are looked for if no file is given: torch.hub's folder."""
    return Path(torch.hub.get_dir(), "checkpoints", WEIGHTS)


def _inception_network() -> Callable[..., Any]:
    """Return torch-fidelity's network (Raises: ModuleNotFoundError if it is not installed)."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415 (optional)
            FeatureExtractorInceptionV3,
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Inception's features need torch-fidelity: pip install torch-fidelity"
        ) from error
    return FeatureExtractorInceptionV3


def _read_weights(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no Inception weights at {path}: download {WEIGHTS} (torch-fidelity's release v0.2.0 "
            f"on GitHub, {_ORIGIN}) and put it there, or say where it is (weights_path=, or "
            "--weights on the command line)"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a file of plain tensors, and is not read: use {_ORIGIN} ({error})"
        ) from error
    if not isinstance(weights, dict):
        raise ValueError(
            f"expected a dictionary of weights in {path}, got {type(weights).__name__}: use "
            f"{_ORIGIN}"
        )
    return weights
