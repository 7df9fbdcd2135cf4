"""FID with the Inception network of the published numbers: torchmetrics' metric, TensorFlow's resize, weights read safely."""

import io
import pickle
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"


@final
class InceptionFID(FrechetInceptionDistance):
    """torchmetrics' FID on 2048 Inception features, resized as TensorFlow 1 does (antialias=False), as ADM's evaluator does.

    `reset` keeps the reference. The weights are never downloaded and nothing in their file is executed.

    Args:
        weights_path: torch-fidelity's weights-inception-2015-12-05-6726825d.pth; None for the one in torch.hub's folder.

    Raises:
        FileNotFoundError: no weights there; the message says which file to put where.
        ValueError: a file that holds more than tensors, or other weights.

    >>> InceptionFID("nowhere.pth")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: no Inception weights at nowhere.pth: ...
    """

    def __init__(self, weights_path: str | None = None) -> None:
        path = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS) if weights_path is None else Path(weights_path)
        weights = _read_weights(path)
        plain = io.BytesIO()  # torchmetrics unpickles without restriction: it gets a copy that we wrote, not the file
        torch.save(weights, plain)
        plain.seek(0)
        try:
            super().__init__(
                feature=2048,
                reset_real_features=False,
                feature_extractor_weights_path=plain,  # type: ignore[arg-type]  # torch.load reads it as well
                antialias=False,
            )
        except RuntimeError as error:
            raise ValueError(f"the weights of {path} are not those of {_ORIGIN}: {error}") from error
        self.orig_dtype = torch.float32  # torchmetrics sets it in `update`, which a rank without samples never calls

    def update(self, imgs: Tensor, real: bool) -> None:
        """Add uint8 images [B, 3, H, W] or [B, 1, H, W] (grey: repeated) to the reference (`real`) or to what is measured.

        Raises:
            ValueError: other images.
        """
        if imgs.dtype != torch.uint8 or imgs.ndim != 4 or imgs.shape[1] not in (1, 3):
            raise ValueError(f"expected uint8 images [B, 3 or 1, H, W], got {imgs.dtype} {tuple(imgs.shape)}; see to_uint8")
        if not len(imgs):  # the padding of a rank's last batch dropped; the network cannot take none
            return
        with torch.no_grad(), torch.autocast(imgs.device.type, enabled=False):
            super().update(imgs.expand(-1, 3, -1, -1), real)


def _read_weights(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no Inception weights at {path}: download {WEIGHTS} (torch-fidelity's release v0.2.0 on GitHub, {_ORIGIN}) "
            f"and put it there, or pass weights_path= with the place where it is"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of plain tensors, and is not read: use {_ORIGIN} ({error})") from error
    if not isinstance(weights, dict):
        raise ValueError(f"expected a dictionary of weights in {path}, got {type(weights).__name__}: use {_ORIGIN}")
    return weights
