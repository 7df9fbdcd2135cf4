"""DINOv2 features through timm: FD-DINOv2, which sees shape where Inception sees texture."""

from typing import final

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from freeflow_lightning.metrics.features import FeatureNetwork
from freeflow_lightning.metrics.images import as_rgb
from freeflow_lightning.nets.load_weights import load_weights


@final
class DINOv2Features(FeatureNetwork):
    """The class token of a DINOv2 vision transformer: pictures resized to 224 pixels (bicubic,
    antialiased), ImageNet's mean.

    The published FD-DINOv2 uses ViT-L/14 (1024 features). The weights are read from a file; nothing
    is downloaded.

    Args:
        weights_path: .safetensors (or a .pth of plain tensors) for timm's model of that name.
        architecture: timm's name of the network.

    Raises:
        FileNotFoundError: no weights there; the message says which file to get.
        ValueError: weights that do not fit.
    """

    version = f"timm {timm.__version__}"

    def __init__(
        self,
        weights_path: str | None = None,
        architecture: str = "vit_large_patch14_dinov2.lvd142m",
    ) -> None:
        super().__init__()
        where = f"huggingface.co/timm/{architecture}, model.safetensors"
        if weights_path is None:
            raise FileNotFoundError(
                f"no DINOv2 weights: download them ({where}) and say where they are "
                f"(weights_path=, or --weights)"
            )
        try:
            weights = (
                load_file(weights_path)
                if weights_path.endswith(".safetensors")
                else _tensors(weights_path)
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no DINOv2 weights at {weights_path}: download {where}, and put it there"
            ) from error
        self.network: nn.Module = timm.create_model(
            architecture, num_classes=0, img_size=224, dynamic_img_size=False
        )
        self.num_features = int(str(self.network.num_features))
        misfit = f"the weights of {weights_path} do not fit {architecture}: use {where}"
        load_weights(self.network, self._at_224(weights), misfit)
        self.requires_grad_(False).eval()
        mean, std = (
            torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, samples: Tensor) -> Tensor:
        """uint8 pictures [B, 3, H, W] or [B, 1, H, W] (grey: repeated) to [B, num_features].

        Raises:
            ValueError: other pictures.
        """
        x = as_rgb(samples).float() / 255
        x = interpolate(x, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self.network((x - self.mean) / self.std)

    def _at_224(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published position embedding is for 518 pixels: resampled as timm does."""
        from timm.layers import resample_abs_pos_embed  # noqa: PLC0415

        expected = self.network.state_dict()["pos_embed"]
        published = weights.get("pos_embed")
        if published is None or published.shape == expected.shape:
            return weights
        side = round((expected.shape[1] - 1) ** 0.5)
        return weights | {
            "pos_embed": resample_abs_pos_embed(published, [side, side], num_prefix_tokens=1)
        }


def _tensors(path: str) -> dict[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)
