"""Our own files of SiT weights, and where weights are found: a path, a name, a file of the hub."""

import json
from importlib.resources import files
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeflow_lightning.nets import SiT
from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.teachers.reading.hub import hub_file
from freeflow_lightning.teachers.sit_velocity import SiTVelocity, convention_name, find_convention


def find_weights(
    checkpoint: str | Path | None,
    repo_id: str | None,
    filename: str | None,
    revision: str | None,
    cache_dir: str | None,
    offline: bool,
) -> Path:
    """Return the local path of the weights, given as a file or as a hub repository and a file in
    it.
    """
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
    return find_file(str(checkpoint))


def save_sit(
    path: str | Path, network: SiTVelocity, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a SiT's weights, or the given ones, with its architecture and convention into one
    safetensors file.
    """
    name = convention_name(network.convention)
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
    path = find_file(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    except Exception as error:  # damaged bytes have no common error
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
    load_weights(velocity.net, weights, f"the weights of {path} do not fit its architecture")
    return velocity


def is_saved_sit(path: Path) -> bool:
    """Return whether `save_sit` wrote the file: a safetensors file that carries an architecture."""
    try:
        with safe_open(path, "pt") as file:
            return "architecture" in (file.metadata() or {})
    except SafetensorError:  # another format
        return False


def find_file(path: str | Path) -> Path:
    """Return a file's path; "embedded:NAME" is a teacher of this package."""
    if str(path).startswith("embedded:"):
        name = str(path).removeprefix("embedded:")
        path = Path(str(files("freeflow_lightning") / "assets" / f"{name}_teacher.safetensors"))
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no teacher weights at {path}: give the path of a .pt, .pth, .ckpt or .safetensors "
            f"file, 'embedded:faces' or 'embedded:digits'"
        )
    return Path(path)
