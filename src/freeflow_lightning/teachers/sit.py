"""SiT teachers: the change of variables from SiT's network to u, and our own weight files."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from freeflow_lightning.nets import SiT
from freeflow_lightning.teachers.base import Teacher, trainable_copy

Convention = Literal["sit", "repa"]


class SiTVelocity(nn.Module):
    """A SiT network as u(x, t, condition): "sit" is +net(x, 1 - t, c), "repa" is -net(x, t, c).

    SiT's path is tau x + (1 - tau) noise with output data - noise; REPA's is (1 - t) x + t noise with output noise - data.

    Args:
        net: the network in its own convention.
        convention: which of the two it was trained in.
    """

    def __init__(self, net: SiT, convention: Convention = "sit") -> None:
        super().__init__()
        if convention not in ("sit", "repa"):
            raise ValueError(f"expected the convention 'sit' or 'repa', got {convention!r}")
        self.net, self.convention = net, convention

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """u(x, t | condition), [B, C, H, W]."""
        return self.net(x, 1 - t, condition) if self.convention == "sit" else -self.net(x, t, condition)


class SiTTeacher(Teacher):
    """A SiT from a safetensors file that `save_sit` wrote: the file carries its architecture and convention.

    Args:
        checkpoint: path of the file, or "embedded:digits" for the teacher that ships with the package.
        convention: "auto" takes the file's; "sit" or "repa" must agree with it.

    >>> SiTTeacher("embedded:digits").sample_shape
    (1, 8, 8)
    """

    def __init__(self, checkpoint: str | Path, convention: Literal["auto", "sit", "repa"] = "auto") -> None:
        super().__init__()
        self.function = load_sit(checkpoint)
        if convention not in ("auto", self.function.convention):
            raise ValueError(f"{checkpoint} holds a {self.function.convention!r} network, not {convention!r}; use 'auto'")
        self.sample_shape, self.num_classes = self.function.net.sample_shape, self.function.net.num_classes

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)

    def backbone(self) -> nn.Module:
        return self.function

    def network(self) -> nn.Module:
        twin = trainable_copy(self.function)
        twin.net.pos_embed.requires_grad_(False)  # fixed by design, and a frozen teacher no longer tells
        return twin


def save_sit(path: str | Path, network: SiTVelocity) -> None:
    """Write a SiT's weights with its architecture (SiT's arguments) and convention into one safetensors file."""
    about = {"architecture": json.dumps(network.net.architecture), "convention": network.convention}
    save_file({key: value.contiguous().cpu() for key, value in network.net.state_dict().items()}, str(path), about)


def load_sit(path: str | Path) -> SiTVelocity:
    """Read what `save_sit` wrote. Nothing in the file is executed.

    Raises:
        ValueError: not a safetensors file, one without architecture, or weights that do not fit it.
        FileNotFoundError: no such file.
    """
    path = resolve(path)
    try:
        with safe_open(path, "pt") as file:
            about, weights = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    if not {"architecture", "convention"} <= about.keys():
        raise ValueError(f"{path} carries no architecture: expected a file written by freeflow_lightning.teachers.save_sit")
    try:
        velocity = SiTVelocity(SiT(**json.loads(about["architecture"])), about["convention"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} carries an architecture or convention that this version cannot build: {error}") from error
    try:
        velocity.net.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} do not fit its architecture: {error}") from error
    return velocity


def resolve(path: str | Path) -> Path:
    """A file's path; "embedded:NAME" is a teacher of this package."""
    if str(path).startswith("embedded:"):
        name = str(path).removeprefix("embedded:")
        path = Path(str(files("freeflow_lightning") / "assets" / f"{name}_teacher.safetensors"))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no teacher weights at {path}: give the path of a .safetensors file or 'embedded:digits'")
    return Path(path)
