"""SiT's arguments from the shapes of its tensors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from freeflow_lightning.nets import SIZES

HEADS = {size["hidden_size"]: size["num_heads"] for size in SIZES.values()}


SHAPED_BY = ("x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.mlp.fc1.weight")
"""Tensors whose shapes tell the architecture."""


def infer_architecture(
    state: Mapping[str, Tensor],
    path: str | Path,
    num_heads: int | None = None,
    input_size: int | None = None,
) -> dict[str, Any]:
    """SiT's arguments from the shapes of a state dict."""
    shapes = {key: tuple(state[key].shape) if key in state else () for key in SHAPED_BY}
    patches, last, mlp = shapes.values()
    if len(patches) != 4 or len(last) != 2 or len(mlp) != 2 or patches[2] != patches[3]:
        raise ValueError(
            f"{path} is not a SiT's state dict: expected {', '.join(SHAPED_BY)} of 4, 2 and 2 "
            f"dimensions, got {[list(shape) or 'none' for shape in shapes.values()]} among keys "
            f"such as {sorted(state)[:5]}"
        )
    width, channels, patch, _ = patches
    heads = infer_heads(state, path, width, num_heads)
    return {
        "input_size": infer_side(state, path, patch, input_size),
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "num_heads": heads,
        "mlp_ratio": mlp[0] / width,
        "time_scale": 1.0,
        "qk_norm": infer_qk_norm(state),
    }


def infer_side(state: Mapping[str, Tensor], path: str | Path, patch: int, given: int | None) -> int:
    """Return the side of the latents: by the number of positions, or the given one where there are
    none.
    """
    position = state.get("pos_embed")
    if position is None:
        if not given:
            raise ValueError(
                f"{path} has no pos_embed, which would tell the size of its latents: give "
                "input_size, 32 at 256, 64 at 512"
            )
        return given
    side = patch * math.isqrt(position.shape[1]) if position.ndim == 3 else 0
    if given not in (None, side) or not side:
        raise ValueError(
            f"{path} has pos_embed of shape {list(position.shape)}, for latents of side {side}, "
            f"not {given}"
        )
    return side


def infer_heads(
    state: Mapping[str, Tensor], path: str | Path, width: int, given: int | None
) -> int:
    """Return the number of attention heads: by the norm of a head's queries, the given number, or
    the published one.
    """
    norm = state.get("blocks.0.attn.q_norm.weight")
    if norm is None:
        if given is None and width not in HEADS:
            raise ValueError(
                f"{path} is {width} wide, none of the published widths {sorted(HEADS)}: give "
                f"num_heads"
            )
        return HEADS[width] if given is None else given
    heads = width // max(1, norm.numel())
    if given not in (None, heads):
        raise ValueError(
            f"{path} normalises queries of {norm.numel()} numbers, which makes {heads} heads, not "
            f"{given}"
        )
    return heads


def infer_qk_norm(state: Mapping[str, Tensor]) -> str:
    """SiT's argument qk_norm: a LayerNorm has a bias, an RMS norm has none."""
    if "blocks.0.attn.q_norm.weight" not in state:
        return "none"
    return "layer" if "blocks.0.attn.q_norm.bias" in state else "rms"


def size_name(architecture: Mapping[str, Any]) -> str:
    """Return the published name of an architecture, "SiT-XL/2", or its sizes.

    >>> size_name({"depth": 12, "hidden_size": 768, "num_heads": 12, "patch_size": 2})
    'SiT-B/2'
    """
    for name, size in SIZES.items():
        if all(architecture[key] == value for key, value in size.items()):
            return f"SiT-{name}/{architecture['patch_size']}"
    return f"SiT, {architecture['depth']} blocks of width {architecture['hidden_size']}"
