"""Reading a network's weights from a file: strictly, and without executing anything in it."""

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.teachers.reading.pick_state import pick_state


def read_file(path: str | Path) -> Any:
    """Return what a .safetensors or torch.save file holds: tensors and plain values alone.

    A file of torch.save may hold an argparse.Namespace, as those of public training scripts do.
    Anything else that would need code is refused before it runs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give the path of a .pt, .pth, .ckpt or .safetensors file"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # damaged bytes have no common error
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}): download it again"
            ) from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # damaged pickles fail in many ways
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is not readable as plain tensors: it holds more than tensors and plain "
                f"values ({found[1]}), and reading it would run code, which is refused. Save its "
                "state dict alone, with torch.save or as safetensors, on a machine that trusts "
                "it"
            ) from error
        raise ValueError(
            f"{path} is not a readable file of weights ({type(error).__name__}): "
            "not readable as plain tensors, damaged or cut short?"
        ) from error


def read_state_dict(
    path: str | Path, *, anchor: str, weights_key: str | None = None
) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors file, or in one that torch.save wrote, by itself or
    beside other things.

    Args:
        path: the file.
        anchor: a key of the network, see `pick_state`.
        weights_key: the part to take.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable without executing it, no state dict in it, or several.
    """
    return pick_state(read_file(path), path, anchor=anchor, weights_key=weights_key)[0]


def load_weight_file(network: nn.Module, path: str | Path, weights_key: str | None = None) -> None:
    """Load a file's weights into the network, all of them and nothing else.

    Args:
        network: what they are for.
        path: the file.
        weights_key: the part to take, for a file that holds several networks.

    Raises:
        ValueError: they do not fit; the message lists what is missing and what is left over.
    """
    anchor = max(network.state_dict(), key=len, default="")
    weights = read_state_dict(path, anchor=anchor, weights_key=weights_key)
    load_weights(network, weights, f"the weights of {path} do not fit {type(network).__name__}")


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the notes in a .safetensors file; none in others."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}
