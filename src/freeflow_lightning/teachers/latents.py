"""Latents to pictures through a VAE of diffusers, loaded when the first picture is asked for."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.flow.checks import in_list


class LatentDecoder:
    """decode(latents / scale + shift), in parts, by a frozen VAE that belongs to nobody's weights.

    It is no module: a teacher that holds one neither saves nor copies the VAE, and training never
    loads it. The VAE runs in float32 on the latents' device.

    Args:
        vae: a folder of a diffusers VAE (config.json and diffusion_pytorch_model.safetensors), or
            its hub repository, such as stabilityai/sd-vae-ft-ema.
        scale: latents were multiplied by it after encoding; one number, or one per channel. The
            config's scaling_factor (over its latents_std, if it has one) if not given: 0.18215 for
            the VAE of SiT, REPA and DiT.
        shift: mean of the encoder's latents that was taken off before; likewise. The config's
            shift_factor or latents_mean if not given.
        chunk: latents per call of the VAE, which bounds its memory.
        class_name: the VAE's class in diffusers.
        subfolder: folder of the VAE inside `vae`, "vae" for a whole pipeline.
        revision: commit, tag or branch of the repository.
        cache_dir: where hub files are kept.
        offline: use the cache alone.
    """

    def __init__(
        self,
        vae: str | Path,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] | None = None,
        chunk: int = 8,
        class_name: str = "AutoencoderKL",
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        offline: bool = False,
    ) -> None:
        check_counts(1, chunk=chunk)
        for number in in_list(scale):
            check_numbers(0, without_low=True, scale=number)
        for number in in_list(shift):
            check_numbers(-math.inf, shift=number)
        self.vae = str(vae)
        self.chunk = chunk
        self.class_name = class_name
        self.given_scale = scale
        self.given_shift = shift
        self.subfolder = subfolder
        self.revision = revision
        self.cache_dir = cache_dir
        self.offline = offline
        self._network: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> "LatentDecoder":
        """Itself: there is nothing to train in it."""
        return self

    @property
    def scale(self) -> float | Sequence[float]:
        """The given one, or the config's, per channel where that has deviations of the latents."""
        if self.given_scale is not None:
            return self.given_scale
        config = self.config()
        factor = config.get("scaling_factor")
        factor = 1.0 if factor is None else factor
        deviations = config.get("latents_std")
        return factor if deviations is None else [factor / deviation for deviation in deviations]

    @property
    def shift(self) -> float | Sequence[float]:
        """The given one, or the config's."""
        if self.given_shift is not None:
            return self.given_shift
        config = self.config()
        mean = config.get("latents_mean")
        return (config.get("shift_factor") or 0.0) if mean is None else mean

    def config(self) -> Mapping[str, Any]:
        """Return the VAE's config; its weights are not read for it.

        Raises:
            FileNotFoundError: it is not there and the hub cannot be reached.
            ValueError: diffusers has no such class.
        """
        if self._network is not None:
            return self._network.config  # type: ignore[return-value]  # of diffusers' ModelMixin
        try:
            return self._class().load_config(
                self.vae,
                subfolder=self.subfolder,
                revision=self.revision,
                cache_dir=self.cache_dir,
                local_files_only=self.offline,
            )
        except OSError as error:
            raise self._missing(error) from error

    def check(self, sample_shape: tuple[int, ...]) -> str:
        """Say what the VAE makes of samples of this shape, found without its weights.

        Raises:
            FileNotFoundError: no such VAE.
            ValueError: a VAE that does not take such samples, or makes no pictures of them.
        """
        kind, config = self._class(), self.config()
        scale, shift = self.scale, self.shift
        try:
            with torch.device("meta"):
                latents = torch.zeros(1, *sample_shape)
                latents = latents / per_channel(scale, latents) + per_channel(shift, latents)
                shape = list(
                    kind.from_config(config).decode(latents, return_dict=False)[0].shape[1:]
                )
        except Exception as error:  # whatever the decoder raises on a shape
            channels = config.get("latent_channels", config.get("z_dim"))
            raise ValueError(
                f"the VAE {self.vae!r} ({self.class_name}) does not decode samples of shape "
                f"{list(sample_shape)}: expected latents of {channels} channels; give the VAE, "
                "scale and shift that the teacher's latents were made with "
                f"({type(error).__name__}: {str(error).splitlines()[0]})"
            ) from error
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"the VAE {self.vae!r} ({self.class_name}) decodes samples of shape "
                f"{list(sample_shape)} to {shape}: expected pictures [3, height, width]; give the "
                "VAE that the teacher's latents were made with"
            )
        size = " x ".join(map(str, shape))
        factors = f"scale {_describe_factor(scale)}, shift {_describe_factor(shift)}"
        return f"{self.class_name}, pictures of {size}, {factors}"

    def network(self) -> nn.Module:
        """Return the VAE, loaded once.

        Raises:
            FileNotFoundError: it is not there and the hub cannot be reached, or the folder holds no
                VAE in safetensors.
            ValueError: diffusers has no such class.
        """
        if self._network is None:
            try:
                found = self._class().from_pretrained(
                    self.vae,
                    subfolder=self.subfolder,
                    revision=self.revision,
                    cache_dir=self.cache_dir,
                    local_files_only=self.offline,
                    use_safetensors=True,  # weights as a pickle are refused
                    torch_dtype=torch.float32,
                )
            except OSError as error:
                raise self._missing(error) from error
            self._network = found.eval().requires_grad_(False)
        return self._network

    def _class(self) -> Any:
        import diffusers  # noqa: PLC0415 (a second, and training does without it)

        if not hasattr(diffusers, self.class_name):
            raise ValueError(f"diffusers {diffusers.__version__} has no class {self.class_name!r}")
        return getattr(diffusers, self.class_name)

    def _missing(self, error: OSError) -> FileNotFoundError:
        return FileNotFoundError(
            f"no VAE at {self.vae!r}, not as a folder with config.json and "
            "diffusion_pytorch_model.safetensors and not in the hub or its cache: on a machine "
            f"with a network run `hf download {self.vae} --local-dir vae`, copy the folder here "
            f"and give its path as the vae ({str(error).strip().splitlines()[0]})"
        )

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Pictures in [-1, 1], float32 [B, 3, H, W], of latents [B, C, h, w]."""
        network = self.network().to(latents.device)
        latents = latents.float() / per_channel(self.scale, latents) + per_channel(
            self.shift, latents
        )
        with torch.autocast(latents.device.type, enabled=False):
            decode = network.decode
            parts = [
                decode(part, return_dict=False)[0]  # type: ignore[operator]  # a VAE's method
                for part in latents.split(self.chunk)
            ]
        return torch.cat(parts)


def per_channel(value: float | Sequence[float] | Tensor, x: Tensor) -> Tensor:
    """Return one number, or one per channel, to broadcast against x [B, C, ...], float32."""
    given = torch.as_tensor(value, dtype=torch.float32, device=x.device)
    return given if given.ndim == 0 else given.view(-1, *[1] * (x.ndim - 2))


def _describe_factor(value: float | Sequence[float]) -> str:
    """Return one number, or that there is one per channel."""
    return f"{value:g}" if isinstance(value, int | float) else "by channel"
