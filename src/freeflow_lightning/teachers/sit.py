"""SiTTeacher: a SiT from a file, the hub or this package, its guidance and its decoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts
from freeflow_lightning.teachers.base import Teacher, trainable_copy
from freeflow_lightning.teachers.latents import LatentDecoder
from freeflow_lightning.teachers.reading.say import say
from freeflow_lightning.teachers.reading.sit_files import read_sit
from freeflow_lightning.teachers.sit_convention import load_foreign
from freeflow_lightning.teachers.sit_velocity import SiTVelocity, convention_name
from freeflow_lightning.teachers.sit_weights import find_weights, is_saved_sit, load_sit


@dataclass(frozen=True)
class GuidedChannels:
    """Guidance of the first channels only, the others staying conditional: 3 of 4 in the samplers
    of SiT and DiT.
    """

    count: int

    def __call__(self, guided: Tensor, conditional: Tensor) -> Tensor:
        return torch.cat(
            [guided[:, : self.count], conditional[:, self.count :].to(guided.dtype)], dim=1
        )


class SiTTeacher(Teacher):
    """A SiT: public weights of SiT, SiT+REPA and DMF, files that `save_sit` wrote, or the one that
    ships with the package.

    Says what it read: which of a file's weights, what was left out, and the evidence for a
    convention that it found out.

    Args:
        checkpoint: path of a .pt, .pth, .ckpt or .safetensors file, "embedded:faces" or
            "embedded:digits"; not with `repo_id`.
        convention: "sit", "repa", or "auto": our own files say theirs, that of others is measured
            (`check_convention`).
        repo_id: repository of the hub to take the weights from, for example
            nyu-visionx/SiT-collections.
        filename: the file in it, for example SiT-XL-2-256.pt.
        revision: commit, tag or branch; a commit pins the file.
        cache_dir: where hub files are kept.
        offline: take hub files from the cache alone.
        vae: what decodes latents to pictures: a folder or hub repository of a diffusers VAE, such
            as stabilityai/sd-vae-ft-ema, or a LatentDecoder; None shows the samples as they are.
        cfg_channels: guide only so many of the first channels, 3 as the samplers of SiT and DiT do;
            None guides all.
        num_heads: attention heads of a width that was never published.
        input_size: side of the latents, for a file without position embedding.
        num_classes: classes without the null class, for a file that does not tell whether its table
            has one.
        weights_key: which of a file's weights to take, such as "ema" or "state_dict.ema", where it
            holds several networks.
        unconditional: ask the null class alone: a teacher, and so students, without classes.

    >>> SiTTeacher("embedded:digits").sample_shape
    (1, 8, 8)
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        convention: Literal["auto", "sit", "repa"] = "auto",
        repo_id: str | None = None,
        filename: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        offline: bool = False,
        vae: str | LatentDecoder | None = None,
        cfg_channels: int | None = None,
        num_heads: int | None = None,
        input_size: int | None = None,
        num_classes: int | None = None,
        weights_key: str | None = None,
        unconditional: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"cfg_channels": cfg_channels, "num_heads": num_heads, "input_size": input_size}
        check_counts(1, **{name: size for name, size in sizes.items() if size is not None})
        if num_classes is not None:
            check_counts(0, num_classes=num_classes)
        path = find_weights(checkpoint, repo_id, filename, revision, cache_dir, offline)
        reading = {
            "num_heads": num_heads,
            "input_size": input_size,
            "num_classes": num_classes,
            "weights_key": weights_key,
        }
        self.function, self.notes = _read_velocity(path, convention, reading)
        if self.notes and vae is None:
            self.notes += ("no vae: pictures show the samples as they are",)
        if self.notes:
            say(f"{path}: " + "; ".join(self.notes))
        if unconditional:
            self.function = SiTVelocity(
                self.function.net.without_classes(), self.function.convention
            )
        net = self.function.net
        self.sample_shape = net.sample_shape
        self.num_classes = net.num_classes
        if cfg_channels is not None and not 0 < cfg_channels <= self.sample_shape[0]:
            raise ValueError(
                f"expected cfg_channels in 1 .. {self.sample_shape[0]}, the channels of the "
                f"samples, got {cfg_channels}"
            )
        self.rescale = None if cfg_channels is None else GuidedChannels(cfg_channels)
        self.vae = (
            LatentDecoder(vae, cache_dir=cache_dir, offline=offline)
            if isinstance(vae, str)
            else vae
        )

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)

    def null_condition(self, condition: Any) -> Any:
        if self.num_classes and not self.function.net.null_class:
            raise ValueError(
                "these weights have no null class, so they cannot be guided: set guidance_range "
                "to [1, 1] and evaluation_guidance to 1"
            )
        return super().null_condition(condition)

    def backbone(self) -> nn.Module:
        return self.function

    def decode(self, x: Tensor) -> Tensor:
        """Pictures of latents by the VAE, or the samples themselves without one."""
        return x if self.vae is None else self.vae(x)

    def check_decoder(self) -> str:
        if self.vae is None:
            return "none: samples are shown as they are"
        return self.vae.check(self.sample_shape)

    def network(self) -> nn.Module:
        twin = trainable_copy(self.function)
        # fixed by design, and a frozen teacher no longer tells
        twin.net.pos_embed.requires_grad_(False)
        return twin


def _read_velocity(
    path: Path, convention: Literal["auto", "sit", "repa"], reading: dict[str, Any]
) -> tuple[SiTVelocity, tuple[str, ...]]:
    """Return the velocity in a file, and what was taken of a foreign one: our own say all of
    themselves.

    Args:
        path: the file.
        convention: its own, or "auto" to find it out.
        reading: `read_sit`'s options, for what a foreign file does not tell.
    """
    if not is_saved_sit(path):
        return load_foreign(read_sit(path, **reading), path, convention)
    if not all(option is None for option in reading.values()):
        raise ValueError(
            f"{path} carries its architecture: leave num_heads, input_size, num_classes and "
            "weights_key out"
        )
    velocity = load_sit(path)
    known = convention_name(velocity.convention)
    if convention not in ("auto", known):
        raise ValueError(f"{path} holds a {known!r} network, not {convention!r}; use 'auto'")
    return velocity, ()
