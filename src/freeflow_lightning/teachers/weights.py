"""Reading a network's weights from a file: strictly, and without executing anything in it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("ema", "model_ema", "state_dict", "model", "params")
"""Names under which training scripts keep the weights beside other things, the best first."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in one that torch.save wrote (by itself, or under a name of WRAPPERS).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable without executing it, or no state dict in it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a .safetensors file or of a state dict (.pt)")
    try:
        safe = Path(path).suffix == ".safetensors"
        found: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not readable as plain tensors ({type(error).__name__}): it is damaged, or would run code; "
            "save net.state_dict() with safetensors instead"
        ) from error
    for name in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(
            f"{path} holds no state dict: expected tensors by name, by themselves or under one of {list(WRAPPERS)}"
        )
    return found


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a file's weights into the network, all of them and nothing else.

    Raises:
        ValueError: they do not fit; the message lists what is missing and what is left over.
    """
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} do not fit {type(network).__name__}: {error}") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """The notes in a .safetensors file; none in others."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}
