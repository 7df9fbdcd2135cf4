"""SiT teachers: the changes of variables from SiT's and REPA's networks to u, and our own weight
files.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from freeflow_lightning.nets import SiT
from freeflow_lightning.teachers.base import Teacher, trainable_copy
from freeflow_lightning.teachers.checks import check_convention
from freeflow_lightning.teachers.latents import LatentDecoder
from freeflow_lightning.teachers.reading.hub import hub_file
from freeflow_lightning.teachers.reading.sit_files import SiTWeights, build_sit, read_sit, size_name

Name = Literal["sit", "repa"]


@dataclass(frozen=True)
class Convention:
    """How a SiT network's time and output become ours: u(x, t, c) = sign * net(x, time, c).

    Args:
        prior_time: the network's time at the prior: time is t for 1 and 1 - t for 0.
        sign: factor on its output, 1 or -1; 1 where that points from noise to data.
    """

    prior_time: int
    sign: int

    def __post_init__(self) -> None:
        if self.prior_time not in (0, 1) or self.sign not in (-1, 1):
            raise ValueError(
                f"expected prior_time 0 or 1 and sign 1 or -1, got {self.prior_time} and "
                f"{self.sign}"
            )


SIT = Convention(prior_time=0, sign=1)
"""SiT's path is tau x + (1 - tau) noise with output data - noise."""
REPA = Convention(prior_time=1, sign=-1)
"""REPA's path is (1 - t) x + t noise with output noise - data."""
CONVENTIONS: dict[Name, Convention] = {"sit": SIT, "repa": REPA}
"""By the names that YAML, our own weight files and exported folders hold."""


def find_convention(name: str) -> Convention:
    """Look a convention up by its name in a file or a config."""
    for known, convention in CONVENTIONS.items():
        if known == name:
            return convention
    raise ValueError(f"expected the convention 'sit' or 'repa', got {name!r}")


def name_of(convention: Convention) -> Name | None:
    """The name under which files and configs know a convention; None for one that has none.

    >>> name_of(REPA), name_of(Convention(prior_time=1, sign=1))
    ('repa', None)
    """
    return next((name for name, known in CONVENTIONS.items() if known == convention), None)


class SiTVelocity(nn.Module):
    """A SiT network as u(x, t, condition) = sign * net(x, time, c), a teacher's or an official
    student's.

    Args:
        net: the network in its own convention.
        convention: SIT, REPA or another; their names "sit" and "repa" in a config.
    """

    def __init__(self, net: SiT, convention: Convention | Name = SIT) -> None:
        super().__init__()
        self.net = net
        self.convention = find_convention(convention) if isinstance(convention, str) else convention

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """u(x, t | condition), [B, C, H, W]."""
        time = t if self.convention.prior_time else 1 - t
        return self.convention.sign * self.net(x, time, condition)


def read_from_prior(net: SiT, prior_time: int, sign: int) -> SiTVelocity:
    """The network of an exported folder of 0.1.0, which calls an official student's "FromPrior"."""
    return SiTVelocity(net, Convention(prior_time, sign))


@dataclass(frozen=True)
class FirstChannels:
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
        checkpoint: path of a .pt, .pth, .ckpt or .safetensors file, or "embedded:digits"; not with
            `repo_id`.
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
    ) -> None:
        super().__init__()
        path = located(checkpoint, repo_id, filename, revision, cache_dir, offline)
        self.notes: tuple[str, ...] = ()
        if is_own(path):
            if not all(
                option is None for option in (num_heads, input_size, num_classes, weights_key)
            ):
                raise ValueError(
                    f"{path} carries its architecture: leave num_heads, input_size, num_classes "
                    f"and weights_key out"
                )
            self.function = load_sit(path)
            if convention not in ("auto", name_of(self.function.convention)):
                raise ValueError(
                    f"{path} holds a {name_of(self.function.convention)!r} network, not "
                    f"{convention!r}; use 'auto'"
                )
        else:
            read = read_sit(
                path,
                num_heads=num_heads,
                input_size=input_size,
                num_classes=num_classes,
                weights_key=weights_key,
            )
            self.function, self.notes = load_foreign(read, path, convention)
            if vae is None:
                self.notes += ("no vae: pictures show the samples as they are",)
            rank_zero_info(f"{path}: " + "; ".join(self.notes))
        self.sample_shape, self.num_classes = (
            self.function.net.sample_shape,
            self.function.net.num_classes,
        )
        if cfg_channels is not None and not 0 < cfg_channels <= self.sample_shape[0]:
            raise ValueError(
                f"expected cfg_channels in 1 .. {self.sample_shape[0]}, the channels of the "
                f"samples, got {cfg_channels}"
            )
        self.rescale = None if cfg_channels is None else FirstChannels(cfg_channels)
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
        twin.net.pos_embed.requires_grad_(
            False
        )  # fixed by design, and a frozen teacher no longer tells
        return twin


def located(
    checkpoint: str | Path | None,
    repo_id: str | None,
    filename: str | None,
    revision: str | None,
    cache_dir: str | None,
    offline: bool,
) -> Path:
    """The local path of the weights, given as a file or as a hub repository and a file in it."""
    if (checkpoint is None) == (repo_id is None) or (repo_id is None) != (filename is None):
        raise ValueError(
            "expected either checkpoint, the path of a file, or repo_id and filename, a file of "
            f"the hub; got checkpoint={checkpoint!r}, repo_id={repo_id!r}, filename={filename!r}"
        )
    if repo_id is not None and filename is not None:
        return hub_file(repo_id, filename, revision=revision, cache_dir=cache_dir, offline=offline)
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} pins a file of the hub: it has no effect on "
            f"checkpoint={str(checkpoint)!r}"
        )
    return resolve(str(checkpoint))


def load_foreign(
    read: SiTWeights, path: str | Path, convention: Literal["auto", "sit", "repa"]
) -> tuple[SiTVelocity, tuple[str, ...]]:
    """A foreign file's network in the given convention or in the one found out, and what to tell
    the user.

    Raises:
        ValueError: tensors that no SiT has, or a convention that the samples do not tell.
    """
    if read.extra:
        raise ValueError(
            f"{path} holds {len(read.extra)} tensors that no SiT has: "
            f"{', '.join(sorted(read.extra)[:10])}"
        )
    net = build_sit(read).eval()
    parameters = sum(p.numel() for p in net.parameters())
    about = f"{size_name(read.architecture)}, latents {list(net.sample_shape)}, {parameters:,} parameters"
    if convention != "auto":
        return SiTVelocity(net, convention), (
            about,
            *read.notes,
            f"convention {convention!r} as given",
        )
    measured, why = measure_convention(net, read.hint, path)
    return SiTVelocity(net, measured), (about, *read.notes, why)


def measure_convention(net: SiT, hint: str | None, path: str | Path) -> tuple[Convention, str]:
    """The convention by measuring u(z, 1), or by the file's layout where that does not tell, and
    the evidence in words.
    """
    evidence = check_convention(_Reading(SiTVelocity(net, SIT)), samples=2)
    measured = {"right": SIT, "wrong sign and time": REPA}
    if evidence.verdict in measured:
        found = measured[evidence.verdict]
        here = evidence.readings["as it is" if found == SIT else "sign and time"]
        beside = (
            f", although the layout is that of {hint!r} files"
            if hint not in (None, name_of(found))
            else ""
        )
        return found, f"convention {name_of(found)!r} as measured ({here.figures()}){beside}"
    if evidence.verdict == "unclear" and hint is not None:
        known = find_convention(hint)
        return (
            known,
            f"convention {name_of(known)!r} by the file's layout alone: the samples do not tell",
        )
    raise ValueError(
        f"cannot tell the convention of {path}: give convention 'sit' or 'repa'. Evidence, read "
        f"as 'sit': {evidence.evidence()}"
    )


class _Reading(Teacher):
    """A velocity to be checked."""

    def __init__(self, function: SiTVelocity) -> None:
        super().__init__()
        self.function = function
        self.sample_shape, self.num_classes = function.net.sample_shape, function.net.num_classes

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)


def save_sit(
    path: str | Path, network: SiTVelocity, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a SiT's weights, or the given ones, with its architecture and convention into one
    safetensors file.
    """
    name = name_of(network.convention)
    if name is None:
        raise ValueError(
            f"a file of weights is 'sit' or 'repa', not {network.convention}: export the student "
            f"instead"
        )
    about = {"architecture": json.dumps(network.net.architecture), "convention": name}
    save_file(
        {
            key: value.contiguous().cpu()
            for key, value in (weights or network.net.state_dict()).items()
        },
        str(path),
        about,
    )


def load_sit(path: str | Path) -> SiTVelocity:
    """Read what `save_sit` wrote. Nothing in the file is executed.

    Raises:
        ValueError: not a safetensors file, one without architecture, or weights that do not fit it.
        FileNotFoundError: no such file.
    """
    path = resolve(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    if not {"architecture", "convention"} <= about.keys():
        raise ValueError(
            f"{path} carries no architecture: expected a file written by "
            f"freeflow_lightning.teachers.save_sit"
        )
    try:
        velocity = SiTVelocity(
            SiT(**json.loads(about["architecture"])), find_convention(about["convention"])
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} carries an architecture or convention that this version cannot build: {error}"
        ) from error
    try:
        velocity.net.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} do not fit its architecture: {error}") from error
    return velocity


def is_own(path: Path) -> bool:
    """Whether `save_sit` wrote the file: a safetensors file that carries an architecture."""
    try:
        with safe_open(path, "pt") as file:
            return "architecture" in (file.metadata() or {})
    except SafetensorError:  # another format
        return False


def resolve(path: str | Path) -> Path:
    """A file's path; "embedded:NAME" is a teacher of this package."""
    if str(path).startswith("embedded:"):
        name = str(path).removeprefix("embedded:")
        path = Path(str(files("freeflow_lightning") / "assets" / f"{name}_teacher.safetensors"))
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no teacher weights at {path}: give the path of a .pt, .pth, .ckpt or .safetensors "
            f"file, or 'embedded:digits'"
        )
    return Path(path)
