"""An exported folder: freeflow.json says what is in it, with every file's SHA-256; what is missing
or changed is refused.
"""

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from freeflow_lightning.students.export.build_network import check_shapes_of
from freeflow_lightning.students.export.manifest import FORMAT, SCHEMA, check_manifest, inside
from freeflow_lightning.teachers.reading.hub import HubAccess

MANIFEST, CARD = "freeflow.json", "README.md"
WEIGHTS = "flow_map.safetensors"
PARTS = ("transformer", "unet", "vae")
"""Folders that diffusers reads."""
UNSEALED = {MANIFEST, CARD, ".gitattributes"}
"""Not in the list of hashes: the list itself (it has a hash of its own), and what people and the
hub edit.
"""


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """A state dict as safetensors, each tensor with memory of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        str(path),
        {"format": "pt"},
    )


def seal(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write freeflow.json with the hash of every file that the folder holds now, and its own;
    returns it.
    """
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    files = {
        name: sha256(folder / name) for name in names if name not in UNSEALED and not _hidden(name)
    }
    libraries = {"freeflow-lightning": version("freeflow-lightning"), "torch": torch.__version__}
    sealed = {"format": FORMAT, "schema": SCHEMA} | manifest
    sealed |= {"versions": libraries | {"python": platform.python_version()}, "files": files}
    sealed["sha256"] = _own_hash(sealed)
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=1) + "\n")
    return sealed


def read_manifest(path: Path) -> dict[str, Any]:
    """freeflow.json, checked against its own hash, and for what it says.

    Raises:
        ValueError: not a manifest, of another version, changed, or without what loading needs.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): export the student again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by freeflow export")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {manifest.get('schema')}, this version reads {SCHEMA}: install "
            f"the one that wrote it"
        )
    if manifest.get("sha256") != _own_hash(manifest):
        raise ValueError(
            f"{path} has been changed since it was exported: its hash is another; export the "
            f"student again"
        )
    check_manifest(path, manifest)
    return manifest


def check_files(folder: Path, manifest: dict[str, Any], names: Iterable[str]) -> None:
    """See that files are there and are those of the manifest.

    Raises:
        FileNotFoundError: a file that the manifest names is missing.
        ValueError: a file has another hash, or is not inside the folder.
    """
    for name in names:
        path = inside(folder, name)
        if not path.is_file():
            raise FileNotFoundError(
                f"{name} is missing in {folder}, and {MANIFEST} names it: copy the folder again, "
                f"or export again"
            )
        found = sha256(path)
        if found != manifest["files"].get(name):
            raise ValueError(
                f"{name} in {folder} is not the file that was exported (SHA-256 {found[:12]}, "
                f"expected {str(manifest['files'].get(name))[:12]}): copy the folder again, or "
                "export again"
            )


def find_exported(
    place: str | Path,
    hub: HubAccess = HubAccess(),  # noqa: B008 (immutable)
) -> tuple[Path, dict[str, Any]]:
    """Return the local folder and manifest of an exported student, every file that loading reads
    checked.

    Args:
        place: a folder, or a hub repository ("owner/name"), of which only the files that loading
            reads are fetched.
        hub: how a repository is read.

    Raises:
        FileNotFoundError: no such folder or repository, or a file is missing.
        ValueError: not an exported student, or a file has been changed.
    """
    if Path(place).is_dir():
        folder = Path(place)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"no {MANIFEST} in {folder}: expected a folder that freeflow export wrote"
            )
        manifest = read_manifest(folder / MANIFEST)
        check_files(
            folder, manifest, dict.fromkeys([*manifest["files"], *list_needed_files(manifest)])
        )
        check_parts(folder, manifest)
        check_shapes_of(manifest["network"], read_shapes(folder, manifest), folder)
        return folder, manifest
    try:
        path = hub.file(str(place), MANIFEST)
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error.__cause__, EntryNotFoundError) and not isinstance(
            error.__cause__, LocalEntryNotFoundError
        ):
            raise FileNotFoundError(
                f"the hub's {place} is not an exported student: it has no {MANIFEST}"
            ) from error
        raise FileNotFoundError(
            f"no exported student at {place}: it is no folder that freeflow export wrote, and no "
            f"repository of the hub that can be opened ({error})"
        ) from error
    manifest = read_manifest(path)
    names = list(list_needed_files(manifest))
    for name in names:
        inside(path.parent, name)  # before anything of that name is asked for
        hub.file(str(place), name)
    check_files(path.parent, manifest, names)
    check_parts(path.parent, manifest)
    check_shapes_of(manifest["network"], read_shapes(path.parent, manifest), path.parent)
    return path.parent, manifest


def check_parts(folder: Path, manifest: dict[str, Any]) -> None:
    """See that diffusers will read no file beside those that the manifest names.

    Raises:
        ValueError: a file of a network or VAE that the manifest does not name, or that an index
            leads to.
    """
    names = [
        path.relative_to(folder).as_posix()
        for part in PARTS
        for path in (folder / part).rglob("*")
        if path.is_file() or path.is_symlink()
    ]
    others = [name for name in names if name not in manifest["files"] and not _hidden(name)]
    for name in names:
        if name.endswith(".index.json") and name not in others:
            others += [shard for shard in _shards(folder, name) if shard not in manifest["files"]]
    if others:
        raise ValueError(
            f"{folder} would be read with {', '.join(sorted(others)[:4])}, which {MANIFEST} does "
            "not name: remove what was added, or export again"
        )


def _shards(folder: Path, index: str) -> set[str]:
    """Return the files that an index of sharded weights names."""
    try:
        weight_map = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        return {f"{index.rpartition('/')[0]}/{file}" for file in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} in {folder} is not an index of weights ({error}): export again"
        ) from error


def list_needed_files(manifest: dict[str, Any]) -> list[str]:
    """Return the files that loading reads: weights, a diffusers network's own, and a decoder's."""
    folders = tuple(f"{name}/" for name in PARTS)
    weights = [entry["file"] for entry in manifest["weights"]]
    own = [
        name for name in manifest["files"] if name.startswith(folders) or name == "model_index.json"
    ]
    return list(dict.fromkeys(weights + own))


def read_exported_weights(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the manifest's weight files under their names in the network.

    Raises:
        ValueError: a file that is not safetensors.
    """
    found: dict[str, Tensor] = {}
    for entry in manifest["weights"]:
        path = inside(folder, entry["file"])
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
        found |= {name.removeprefix(entry["prefix"]): tensor for name, tensor in tensors.items()}
    return found


def read_shapes(folder: Path, manifest: dict[str, Any]) -> dict[str, list[int]]:
    """Return the shapes of the tensors that `read_exported_weights` would read, without reading
    them.

    Raises:
        ValueError: a file that is not safetensors.
    """
    found: dict[str, list[int]] = {}
    for entry in manifest["weights"]:
        path = inside(folder, entry["file"])
        try:
            with safe_open(path, "pt") as file:
                shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
        found |= {name.removeprefix(entry["prefix"]): shape for name, shape in shapes.items()}
    return found


def sha256(path: Path) -> str:
    """Return a file's hash, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_hash(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
