"""Foreign SiT weights, read strictly and safely: nothing is executed, guessed in silence, or half
loaded.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.nets import SIZES, SiT, position_table
from freeflow_lightning.teachers.reading.weights import pick_state, read_file

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What DDP, torch.compile and common wrappers put before every key."""
TRAINING_ONLY = re.compile(r"(projectors|decoder_projectors)\..*|logvar_.*|n_averaged")
"""Keys that no velocity needs: REPA's projectors, learned loss weights, the counter of an average.
"""
HEADS = {size["hidden_size"]: size["num_heads"] for size in SIZES.values()}
SHAPED_BY = ("x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.mlp.fc1.weight")
"""Tensors whose shapes tell the architecture."""
CLASSES = ("num_classes", "n_classes", "class_num", "num_class", "nb_classes")
"""Names under which a training script's arguments say the number of classes."""
DROPOUTS = (
    "class_dropout_prob",
    "cfg_prob",
    "label_dropout",
    "label_dropout_prob",
    "label_drop_prob",
    "uncond_prob",
    "use_cfg_embedding",
)
"""Names under which they say how often, or whether, a label was replaced by the null class."""
ROUND_NUMBERS = (10, 100, 1000)
"""Rows of a table that more likely hold a class each than a null class at their end (CIFAR,
ImageNet).
"""


class SiTWeights(NamedTuple):
    """A file's weights under SiT's own keys, float32.

    Args:
        architecture: SiT's arguments, inferred from the shapes.
        weights: exactly the tensors of that SiT.
        extra: every other tensor, by key; a caller that has no use for them must refuse them.
        notes: what was taken, trimmed, renamed or dropped, for the user to read.
        hint: the convention whose code writes such files, if the layout tells: "sit" or "repa".
    """

    architecture: dict[str, Any]
    weights: dict[str, Tensor]
    extra: dict[str, Tensor]
    notes: tuple[str, ...]
    hint: str | None


def read_sit(
    path: str | Path,
    *,
    num_heads: int | None = None,
    input_size: int | None = None,
    num_classes: int | None = None,
    weights_key: str | None = None,
) -> SiTWeights:
    """Read SiT, SiT+REPA and DMF's SiT files: raw or wrapped, with prefixes, legacy names,
    projectors, learned variance.

    Args:
        path: .pt, .pth, .ckpt or .safetensors.
        num_heads: attention heads, where the width is none of the published ones.
        input_size: side of the latent, only for a file without pos_embed.
        num_classes: classes without the null class, for a file that does not tell whether it has
            one.
        weights_key: which of a file's weights to take, for a file that holds several; an average if
            not given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, more than tensors and plain values, or not a SiT's weights; the message
            lists what does not fit.
    """
    content = read_file(path)
    state, notes = pick_state(content, path, anchor=SHAPED_BY[0], weights_key=weights_key)
    state = unprefixed(state, path, notes)
    state = modern_names(state, path, notes)
    dropped = [key for key in state if TRAINING_ONLY.fullmatch(key)]
    if dropped:
        families = dict.fromkeys(key.partition(".")[0] for key in dropped)
        notes.append(
            f"left out {len(dropped)} tensors used in training alone ({', '.join(families)})"
        )
        state = {key: value for key, value in state.items() if key not in dropped}
    architecture = inferred(state, path, num_heads, input_size)
    architecture |= class_table(state, path, num_classes, training_arguments(content), notes)
    learns_sigma = trim_learned_variance(state, architecture, path)
    if learns_sigma:
        notes.append("trimmed the learned variance off the last layer")
    weights, extra = fitted(state, architecture, path, notes)
    hint = (
        "sit"
        if learns_sigma
        else "repa"
        if any(key.startswith("projectors.") for key in dropped)
        else None
    )
    return SiTWeights(architecture, weights, extra, tuple(notes), hint)


def build_sit(read: SiTWeights) -> SiT:
    """The network with the file's weights."""
    with torch.device("meta"):
        net = SiT(**read.architecture)
    net.load_state_dict(read.weights, assign=True)
    return net


def unprefixed(state: dict[str, Tensor], path: str | Path, notes: list[str]) -> dict[str, Tensor]:
    """Without the prefixes that every key shares (counters of averages apart), and without
    torch.compile's anywhere.
    """
    renamed = {key: key.replace("_orig_mod.", "") for key in state}
    taken = {"_orig_mod."} if any(key != new for key, new in renamed.items()) else set()
    while True:
        keys = [new for new in renamed.values() if not TRAINING_ONLY.fullmatch(new)]
        shared = [
            prefix for prefix in PREFIXES if keys and all(key.startswith(prefix) for key in keys)
        ]
        if not shared:
            break
        taken.add(shared[0])
        renamed = {key: new.removeprefix(shared[0]) for key, new in renamed.items()}
    if len(set(renamed.values())) < len(renamed):
        raise ValueError(
            f"{path} holds the same tensor twice, with and without {sorted(taken)}: keep one of "
            f"them"
        )
    if taken:
        notes.append(f"took {', '.join(sorted(taken))} off the keys")
    return {renamed[key]: value for key, value in state.items()}


def modern_names(state: dict[str, Tensor], path: str | Path, notes: list[str]) -> dict[str, Tensor]:
    """REPA's first files: decoder_blocks.j follows the last of blocks; DMF's norms call their
    weight scale.
    """
    numbers = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    first = max(numbers, default=-1) + 1
    renamed = {
        key: re.sub(
            r"^decoder_blocks\.(\d+)\.", lambda match: f"blocks.{first + int(match[1])}.", key
        )
        for key in state
    }
    if any(key != new for key, new in renamed.items()):
        notes.append(f"renamed decoder_blocks.0 ... to blocks.{first} ...")
    named = {renamed[key]: value for key, value in state.items()}
    return {
        re.sub(r"\.([qk])_norm\.scale$", r".\1_norm.weight", key): value
        for key, value in named.items()
    }


def inferred(
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
    position = state.get("pos_embed")
    num_heads = heads_of(state, path, width, num_heads)
    if position is None and input_size is None:
        raise ValueError(
            f"{path} has no pos_embed, which would tell the size of its latents: give input_size, "
            f"32 at 256, 64 at 512"
        )
    side = (
        input_size
        if position is None
        else patch * math.isqrt(position.shape[1])
        if position.ndim == 3
        else 0
    )
    if input_size not in (None, side) or not side:
        shape = None if position is None else list(position.shape)
        raise ValueError(
            f"{path} has pos_embed of shape {shape}, for latents of side {side}, not {input_size}"
        )
    return {
        "input_size": side,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "num_heads": num_heads,
        "mlp_ratio": mlp[0] / width,
        "time_scale": 1.0,
        "qk_norm": qk_norm_of(state),
    }


def heads_of(state: Mapping[str, Tensor], path: str | Path, width: int, given: int | None) -> int:
    """The number of attention heads: by the norm of a head's queries, the given number, or the
    published one.
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


def qk_norm_of(state: Mapping[str, Tensor]) -> str:
    """SiT's argument qk_norm: a LayerNorm has a bias, an RMS norm has none."""
    if "blocks.0.attn.q_norm.weight" not in state:
        return "none"
    return "layer" if "blocks.0.attn.q_norm.bias" in state else "rms"


def training_arguments(content: Any, depth: int = 4) -> dict[str, Any]:
    """The plain values that a training script saved beside the weights, by name; of equal names the
    outermost one.
    """
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or not depth:
        return {}
    found: dict[str, Any] = {}
    for value in content.values():
        found |= training_arguments(value, depth - 1)
    return found | {
        name: value for name, value in content.items() if isinstance(value, bool | int | float)
    }


def class_table(
    state: Mapping[str, Tensor],
    path: str | Path,
    num_classes: int | None,
    arguments: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """SiT's arguments num_classes and null_class: whether the table's last row is a class or the
    null class.

    Args:
        state: a SiT's tensors.
        path: the file, for messages.
        num_classes: classes without the null class; None for what the file says.
        arguments: `training_arguments` of the file.
        notes: takes what was decided, and by what.

    Raises:
        ValueError: a number of classes that does not fit the table, or a table that may be meant
            either way.
    """
    table = state.get("y_embedder.embedding_table.weight")
    if table is None:
        if num_classes:
            raise ValueError(f"{path} has no table of classes: leave num_classes out")
        return {"num_classes": 0, "null_class": True}
    rows = len(table)
    said = next((arguments[name] for name in CLASSES if name in arguments), None)
    dropout = next((arguments[name] for name in DROPOUTS if name in arguments), None)
    classes, why = num_classes, "as given"
    if classes is None and said is not None:
        classes, why = said, "as its arguments say"
    if classes is None and dropout is not None:
        classes, why = (
            (rows - 1 if dropout > 0 else rows),
            f"as its label dropout of {dropout:g} says",
        )
    if classes is None and rows in ROUND_NUMBERS:
        raise ValueError(
            f"{path} has a table of {rows} classes and does not say whether the last is the null "
            f"class: give num_classes, {rows} if it was trained without dropped labels (then it "
            f"cannot be guided), {rows - 1} if with"
        )
    if classes is None:
        classes, why = rows - 1, "as usual"
    if rows not in (classes, classes + 1):
        raise ValueError(
            f"{path} has a table of {rows} rows, which {classes} classes ({why}) do not fit: give "
            f"num_classes, {rows - 1} with a null class, {rows} without"
        )
    has_null = rows == classes + 1
    end = (
        f"row {classes} is the null class"
        if has_null
        else "no null class, so that it cannot be guided"
    )
    notes.append(f"{classes} classes {why}, {end}")
    return {"num_classes": classes, "null_class": has_null}


def trim_learned_variance(
    state: dict[str, Tensor], architecture: Mapping[str, Any], path: str | Path
) -> bool:
    """Keep the velocity of a last layer that also predicts a variance; whether there was one.

    The rows are [patch, patch, 2 C], the channel fastest: the velocity is the first C of every
    pixel, not the first half.
    """
    p, c = architecture["patch_size"], architecture["in_channels"]
    rows = len(state["final_layer.linear.weight"])
    if rows not in (p * p * c, 2 * p * p * c):
        expected = f"expected {p * p * c}, or {2 * p * p * c} with a learned variance"
        raise ValueError(f"{path} has {rows} rows in final_layer.linear.weight: {expected}")
    if rows == p * p * c:
        return False
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        if key in state:
            value = state[key]
            state[key] = value.reshape(p * p, 2 * c, *value.shape[1:])[:, :c].reshape(
                p * p * c, *value.shape[1:]
            )
    return True


def fitted(
    state: Mapping[str, Tensor], architecture: Mapping[str, Any], path: str | Path, notes: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of that SiT, in float32, and all others. Only a missing pos_embed is made.

    Raises:
        ValueError: tensors missing, of another shape, not floating point, or with NaN or infinite
            values.
    """
    try:
        with torch.device("meta"):
            expected = SiT(**architecture).state_dict()
    except ValueError as error:
        raise ValueError(
            f"{path} has shapes that make no SiT, {json.dumps(architecture)}: {error}"
        ) from error
    taken = {key: value for key, value in state.items() if key in expected}
    if "pos_embed" not in taken:
        notes.append("computed the position embedding, which the file does not hold")
        side = architecture["input_size"] // architecture["patch_size"]
        taken["pos_embed"] = position_table(architecture["hidden_size"], side)
    faults = [f"missing: {key}" for key in expected.keys() - taken.keys()]
    for key, value in taken.items():
        if value.shape != expected[key].shape:
            faults.append(
                f"{key}: expected shape {list(expected[key].shape)}, got {list(value.shape)}"
            )
        elif not value.is_floating_point():
            faults.append(f"{key}: expected floating point, got {value.dtype}")
        elif not bool(torch.isfinite(value).all()):
            faults.append(f"{key}: NaN or infinite values")
    if faults:
        raise ValueError(
            f"{path} does not hold a SiT of the architecture that its shapes tell, "
            f"{json.dumps(architecture)}: "
            + "; ".join(
                [
                    *sorted(faults)[:10],
                    *([f"and {len(faults) - 10} more"] if len(faults) > 10 else []),
                ]
            )
        )
    kinds = {str(value.dtype).removeprefix("torch.") for value in taken.values()} - {"float32"}
    if kinds:
        notes.append(f"converted {', '.join(sorted(kinds))} to float32")
    weights = {key: value.to(torch.float32, copy=True).contiguous() for key, value in taken.items()}
    return weights, {key: value for key, value in state.items() if key not in expected}


def size_name(architecture: Mapping[str, Any]) -> str:
    """The published name of an architecture, "SiT-XL/2", or its sizes.

    >>> size_name({"depth": 12, "hidden_size": 768, "num_heads": 12, "patch_size": 2})
    'SiT-B/2'
    """
    for name, size in SIZES.items():
        if all(architecture[key] == value for key, value in size.items()):
            return f"SiT-{name}/{architecture['patch_size']}"
    return f"SiT, {architecture['depth']} blocks of width {architecture['hidden_size']}"
