"""Pictures of a diffusers teacher's samples: its pipeline's own VAE, loaded when the first picture
is asked for.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.diffusers.files import PipelineFiles
from freeflow_lightning.teachers.diffusers.layouts import LAYOUTS
from freeflow_lightning.teachers.latents import LatentDecoder, per_channel

Unpack = Callable[[Tensor], Tensor]


def unscale(vae: Any, state: Tensor, unpack: Unpack) -> Tensor:
    """Return x / scale + shift, float32, as the others do."""
    return unpack(state) / vae.config["scaling_factor"] + (vae.config.get("shift_factor") or 0.0)


def unstandardise(vae: Any, state: Tensor, unpack: Unpack) -> Tensor:
    """x std + mean per channel; pictures are films of one frame."""
    x = unpack(state)
    x = x.unsqueeze(2) if x.ndim == 4 else x
    return x * per_channel(vae.config["latents_std"], x) + per_channel(
        vae.config["latents_mean"], x
    )


def unscale_mochi(vae: Any, state: Tensor, unpack: Unpack) -> Tensor:
    """x std / scale + mean per channel."""
    x = unpack(state) / vae.config["scaling_factor"]
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    return x if mean is None or std is None else x * per_channel(std, x) + per_channel(mean, x)


def unscale_ltx(vae: Any, state: Tensor, unpack: Unpack) -> Tensor:
    """Return the same, with mean and std among the VAE's weights."""
    if vae.config.get("timestep_conditioning"):
        raise ValueError(
            "this VAE of LTX denoises while it decodes, which previews do not do: leave callbacks "
            "with pictures out"
        )
    x = unpack(state) / vae.config["scaling_factor"]
    return x * per_channel(vae.latents_std, x) + per_channel(vae.latents_mean, x)


def unscale_flux2(vae: Any, state: Tensor, unpack: Unpack) -> Tensor:
    """Tokens scaled by a batch norm's running statistics."""
    std = (vae.bn.running_var + vae.config["batch_norm_eps"]).sqrt()
    return unpack(state * std.to(state) + vae.bn.running_mean.to(state))


VAES: dict[str, Callable[[Any, Tensor, Unpack], Tensor]] = {
    "AutoencoderKL": unscale,
    "AutoencoderDC": unscale,
    "AutoencoderKLHunyuanImage": unscale,
    "AutoencoderKLWan": unstandardise,
    "AutoencoderKLQwenImage": unstandardise,
    "AutoencoderKLMochi": unscale_mochi,
    "AutoencoderKLLTXVideo": unscale_ltx,
    "AutoencoderKLFlux2": unscale_flux2,
}
"""State of the network to the latents that the VAE's decoder takes, by the VAE's class."""


class PipelineDecoder:
    """States of a teacher to pictures, by its pipeline's VAE.

    Args:
        files: the pipeline.
        family: of its network.
        size: of the latent.
    """

    def __init__(self, files: PipelineFiles, family: Family, size: tuple[int, ...]) -> None:
        self.files = files
        self.family = family
        self.size = size
        self.layout = LAYOUTS[family.layout]
        self._decoder: LatentDecoder | None = None

    def __call__(self, state: Tensor) -> Tensor:
        """[B, *sample_shape] to pictures in [-1, 1], [B, 3, H, W]; the frames of a film stand side
        by side.

        Raises:
            ValueError: the model has no VAE, or one that this package does not know.
        """
        entry = self.files.index.get("vae") or [None, None]
        if entry[1] not in VAES:
            raise ValueError(
                f"{self.files.model} has {f'the VAE {entry[1]}' if entry[1] else 'no VAE'}, and "
                f"pictures can be made with {', '.join(VAES)}: leave out callbacks that draw "
                "pictures (SampleGrid, PeriodicFID)"
            )
        if self._decoder is None:
            self._decoder = LatentDecoder(
                self.files.model,
                1.0,
                0.0,
                1,
                class_name=entry[1],
                subfolder="vae",
                revision=self.files.revision,
            )
        vae = self._decoder.network().to(state.device)
        pictures = self._decoder(
            VAES[entry[1]](vae, state.float(), lambda x: self.layout.unpack(x, self.size))
        )
        return side_by_side(pictures).clamp(-1, 1)


def side_by_side(x: Tensor) -> Tensor:
    """[B, C, F, H, W] to [B, C, H, F W]; pictures [B, C, H, W] as they are."""
    return x if x.ndim == 4 else x.transpose(2, 3).flatten(3)
