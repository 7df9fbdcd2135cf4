"""What freeflow.json must say before anything is read or built: its keys, names inside the folder,
sizes that can be meant.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from freeflow_lightning.flow import Pairs, check_starts
from freeflow_lightning.training.output_folder import is_inside

FORMAT, SCHEMA = "freeflow flow map", 1
LARGEST_SAMPLE = 2**26
"""Numbers in one sample: 256 MiB in float32, over thirty times a two-second video's latents."""
LARGEST_COUNT, LARGEST_DEPTH = 2**20, 1024
"""Of any whole number in a network's description, and of its layers."""


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of an exported folder.

    Raises:
        ValueError: the name, or a link on the way, leads out of the folder.
    """
    path = folder / name
    if not is_inside(name):
        raise ValueError(
            f"the folder {folder} names the file {name!r}, which is not inside it: do not use "
            f"this folder"
        )
    if not Path(os.path.realpath(path)).is_relative_to(_root(folder)):  # of a loop: itself
        raise ValueError(
            f"{name} in {folder} is a link that leads out of the folder: put the file itself "
            f"there, or export again"
        )
    return path


def _root(folder: Path) -> Path:
    """Return what links of a folder may point into: the folder, and for one in the hub's cache also
    the cached files beside it.
    """
    real = folder.resolve()
    cached = real.parent.name == "snapshots" and (real.parent.parent / "blobs").is_dir()
    return real.parent.parent if cached else real


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """See that a manifest says all that loading needs, and nothing that cannot be meant.

    Raises:
        ValueError: naming the entry.
    """
    for key, is_right in (ENTRIES | LATER_ENTRIES).items():
        if key in LATER_ENTRIES and key not in manifest:
            continue
        if key not in manifest:
            raise ValueError(
                f"{path} says nothing of {key!r}: it is damaged, or not freeflow export's; export "
                f"again"
            )
        if not is_right(manifest[key]):
            shown = repr(manifest[key])
            shown = shown if len(shown) < 120 else f"{shown[:120]} ..."
            raise ValueError(
                f"{path} cannot mean its {key!r}, {shown}: it is damaged, or not freeflow "
                f"export's; export again"
            )


def _is_sample_shape(value: Any) -> bool:
    counts = isinstance(value, list) and all(_is_count(n) for n in value)
    return counts and 1 <= len(value) <= 4 and math.prod(value) <= LARGEST_SAMPLE


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_COUNT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[0] <= value[1]
    )


def _are_weights(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_weight_file, value))


def _is_weight_file(value: Any) -> bool:
    named = isinstance(value, dict) and isinstance(value.get("file"), str)
    return named and isinstance(value.get("prefix"), str)


def _are_conditions(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    kinds: dict[Any, bool] = {
        "none": True,
        "classes": _is_count(value.get("num_classes")),
        "prompts": isinstance(value.get("what"), str),
    }
    return kinds.get(value.get("kind"), False)


def _is_decoder(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or value.get("kind") not in DECODERS:
        return False
    parts = DECODERS[value["kind"]]
    return all(name in value and is_right(value[name]) for name, is_right in parts.items())


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_name_or_none(value: Any) -> bool:
    return value is None or _is_name(value)


def _is_scale(value: Any) -> bool:
    """Return one number, one per channel, or what the VAE's config says."""
    if value is None:
        return True
    return _is_number(value) or (
        isinstance(value, list) and bool(value) and all(map(_is_number, value))
    )


def _is_entry_of_index(value: Any) -> bool:
    """Return what model_index.json says of a VAE: library and class, or nothing."""
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(map(_is_name_or_none, value))
    )


def _is_network(value: Any) -> bool:
    """Return whether a description is made of names, arguments, and numbers of a size that a
    network can have.
    """
    if not isinstance(value, dict) or not isinstance(value.get("class"), str):
        return False
    arguments = value.get("arguments")
    if value.get("own"):
        return arguments is None or isinstance(arguments, dict)
    return isinstance(arguments, dict) and all(
        _is_argument(name, part) for name, part in arguments.items()
    )


def _is_argument(name: str, value: Any) -> bool:
    if isinstance(value, dict) and "class" in value:
        return _is_network(value)
    if isinstance(value, dict):
        return all(_is_argument(key, part) for key, part in value.items())
    if isinstance(value, list):
        return all(_is_argument(name, part) for part in value)
    if type(value) is int:
        return abs(value) <= (LARGEST_DEPTH if name == "depth" else LARGEST_COUNT)
    return True


def _are_starts(value: Any) -> bool:
    if not isinstance(value, list) or not all(_is_number(start) for start in value):
        return False
    try:
        check_starts(value)
    except ValueError:
        return False
    return True


DECODERS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "vae": {
        "vae": _is_name,
        "scale": _is_scale,
        "shift": _is_scale,
        "chunk": _is_count,
        "class_name": _is_name,
        "subfolder": _is_name_or_none,
        "revision": _is_name_or_none,
    },
    "divided": {"scale": _is_number},
    "pipeline": {
        "model": _is_name,
        "revision": _is_name_or_none,
        "vae": _is_entry_of_index,
        "layout": _is_name,
        "size": _is_sample_shape,
    },
}
"""Kinds of decoders, and what is said of each."""
ENTRIES: dict[str, Callable[[Any], bool]] = {
    "network": _is_network,
    "weights": _are_weights,
    "sample_shape": _is_sample_shape,
    "conditions": _are_conditions,
    "decoder": _is_decoder,
    "left_out": lambda value: (
        isinstance(value, list) and all(isinstance(part, str) for part in value)
    ),
    "guidance_range": _is_range,
    "files": lambda value: (
        isinstance(value, dict) and all(isinstance(part, str) for part in value.values())
    ),
    "average": lambda value: value is None or isinstance(value, str),
    "averages": lambda value: value is None or isinstance(value, list),
    "steps": lambda value: value is None or type(value) is int,
    "evaluation_guidance": lambda value: value is None or _is_number(value),
    "config": lambda value: value is None or isinstance(value, dict),
}
"""What loading reads, and whether a value can be meant."""
LATER_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "pairs": lambda value: value is None or value in list(Pairs),
    "starts": lambda value: value is None or _are_starts(value),
}
"""The same of what folders of earlier versions do not say."""
