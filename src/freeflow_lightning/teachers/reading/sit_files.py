"""Foreign SiT weights, read strictly and safely: nothing is executed, guessed in silence, or half
loaded.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.nets import SiT, position_table
from freeflow_lightning.teachers.reading.class_table import (
    read_class_table,
    read_training_arguments,
)
from freeflow_lightning.teachers.reading.pick_state import pick_state
from freeflow_lightning.teachers.reading.sit_architecture import SHAPED_BY, infer_architecture
from freeflow_lightning.teachers.reading.weights import read_file

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What DDP, torch.compile and common wrappers put before every key."""
TRAINING_ONLY = re.compile(r"(projectors|decoder_projectors)\..*|logvar_.*|n_averaged")
"""Keys that no velocity needs: REPA's projectors, learned loss weights, the counter of an average.
"""


class SiTWeights(NamedTuple):
    """A file's weights under SiT's own keys, float32.

    Args:
        architecture: SiT's arguments, infer_architecture from the shapes.
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
    state = remove_prefixes(state, path, notes)
    state = use_modern_names(state, path, notes)
    state, dropped = drop_training_tensors(state, notes)
    architecture = infer_architecture(state, path, num_heads, input_size)
    architecture |= read_class_table(
        state, path, num_classes, read_training_arguments(content), notes
    )
    learns_sigma = trim_learned_variance(state, architecture, path)
    if learns_sigma:
        notes.append("trimmed the learned variance off the last layer")
    weights, extra = fit_weights(state, architecture, path, notes)
    has_projectors = any(key.startswith("projectors.") for key in dropped)
    layout = "repa" if has_projectors else None
    hint = "sit" if learns_sigma else layout
    return SiTWeights(architecture, weights, extra, tuple(notes), hint)


def build_sit(read: SiTWeights) -> SiT:
    """Return the network with the file's weights."""
    with torch.device("meta"):
        net = SiT(**read.architecture)
    net.load_state_dict(read.weights, assign=True)
    return net


def drop_training_tensors(
    state: dict[str, Tensor], notes: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors that a velocity needs, and the keys of the others."""
    dropped = [key for key in state if TRAINING_ONLY.fullmatch(key)]
    if dropped:
        kinds = dict.fromkeys(key.partition(".")[0] for key in dropped)
        notes.append(f"left out {len(dropped)} tensors used in training alone ({', '.join(kinds)})")
    return {key: value for key, value in state.items() if key not in dropped}, dropped


def remove_prefixes(
    state: dict[str, Tensor], path: str | Path, notes: list[str]
) -> dict[str, Tensor]:
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


def use_modern_names(
    state: dict[str, Tensor], path: str | Path, notes: list[str]
) -> dict[str, Tensor]:
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


def fit_weights(
    state: Mapping[str, Tensor], architecture: Mapping[str, Any], path: str | Path, notes: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of that SiT, in float32, and all others. Only a missing pos_embed is made.

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
    faults = find_faults(taken, expected)
    if faults:
        more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
        raise ValueError(
            f"{path} does not hold a SiT of the architecture that its shapes tell, "
            f"{json.dumps(architecture)}: {'; '.join([*faults[:10], *more])}"
        )
    kinds = {str(value.dtype).removeprefix("torch.") for value in taken.values()} - {"float32"}
    if kinds:
        notes.append(f"converted {', '.join(sorted(kinds))} to float32")
    weights = {key: value.to(torch.float32, copy=True).contiguous() for key, value in taken.items()}
    return weights, {key: value for key, value in state.items() if key not in expected}


def find_faults(taken: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return what is wrong with the tensors of a file, in words, by the alphabet."""
    faults = [f"missing: {key}" for key in expected.keys() - taken.keys()]
    for key, value in taken.items():
        shape = list(expected[key].shape)
        if list(value.shape) != shape:
            faults.append(f"{key}: expected shape {shape}, got {list(value.shape)}")
        elif not value.is_floating_point():
            faults.append(f"{key}: expected floating point, got {value.dtype}")
        elif not bool(torch.isfinite(value).all()):
            faults.append(f"{key}: NaN or infinite values")
    return sorted(faults)
