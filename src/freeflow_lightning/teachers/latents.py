"""Latents to pictures through a VAE of diffusers, loaded when the first picture is asked for."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts

SD_SCALE = 0.18215
"""Factor on the latents of Stable Diffusion's first VAE, the one of SiT, REPA and DiT."""


class LatentDecoder:
    """decode(latents / scale + shift), in parts, by a frozen VAE that belongs to nobody's weights.

    It is no module: a teacher that holds one neither saves nor copies the VAE, and training never loads it. The VAE runs in
    float32 on the latents' device.

    Args:
        vae: a folder of a diffusers VAE (config.json and diffusion_pytorch_model.safetensors), or its hub repository, such as
            stabilityai/sd-vae-ft-ema.
        scale: latents were multiplied by it after encoding; one number, or one per channel.
        shift: mean of the encoder's latents that was taken off before; likewise.
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
        scale: float | Sequence[float] = SD_SCALE,
        shift: float | Sequence[float] = 0.0,
        chunk: int = 8,
        class_name: str = "AutoencoderKL",
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        offline: bool = False,
    ) -> None:
        check_counts(1, chunk=chunk)
        self.vae, self.scale, self.shift, self.chunk, self.class_name = str(vae), scale, shift, chunk, class_name
        self.subfolder, self.revision, self.cache_dir, self.offline = subfolder, revision, cache_dir, offline
        self._network: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> "LatentDecoder":
        """Itself: there is nothing to train in it."""
        return self

    def network(self) -> nn.Module:
        """The VAE, loaded once.

        Raises:
            FileNotFoundError: it is not there and the hub cannot be reached, or the folder holds no VAE in safetensors.
            ValueError: diffusers has no such class.
        """
        if self._network is None:
            import diffusers  # noqa: PLC0415 (a second, and training does without it)

            if not hasattr(diffusers, self.class_name):
                raise ValueError(f"diffusers {diffusers.__version__} has no class {self.class_name!r}")
            try:
                found = getattr(diffusers, self.class_name).from_pretrained(
                    self.vae,
                    subfolder=self.subfolder,
                    revision=self.revision,
                    cache_dir=self.cache_dir,
                    local_files_only=self.offline,
                    use_safetensors=True,  # weights as a pickle are refused
                    torch_dtype=torch.float32,
                )
            except OSError as error:
                raise FileNotFoundError(
                    f"no VAE at {self.vae!r}, not as a folder with config.json and diffusion_pytorch_model.safetensors "
                    "and not in the hub or its cache: on a machine with a network run "
                    f"`hf download {self.vae} --local-dir vae`, copy the folder here and give its path as the vae "
                    f"({str(error).strip().splitlines()[0]})"
                ) from error
            self._network = found.eval().requires_grad_(False)
        return self._network

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Pictures in [-1, 1], float32 [B, 3, H, W], of latents [B, C, h, w]."""
        network = self.network().to(latents.device)
        latents = latents.float() / _per_channel(self.scale, latents) + _per_channel(self.shift, latents)
        with torch.autocast(latents.device.type, enabled=False):
            parts = [network.decode(part, return_dict=False)[0] for part in latents.split(self.chunk)]  # type: ignore[operator]
        return torch.cat(parts)


def _per_channel(value: float | Sequence[float], x: Tensor) -> Tensor:
    """One number, or one per channel, to broadcast against x [B, C, ...]."""
    given = torch.as_tensor(value, dtype=torch.float32, device=x.device)
    return given if given.ndim == 0 else given.view(-1, *[1] * (x.ndim - 2))
