"""Whether the last row of a SiT's table of classes is a class or the null class."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

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


NO_NULL = "no null class, so that it cannot be guided"


def read_training_arguments(content: Any, depth: int = 4) -> dict[str, Any]:
    """Return the plain values that a training script saved beside the weights, by name; of equal
    names the outermost one.
    """
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or not depth:
        return {}
    found: dict[str, Any] = {}
    for value in content.values():
        found |= read_training_arguments(value, depth - 1)
    return found | {
        name: value for name, value in content.items() if isinstance(value, bool | int | float)
    }


def read_class_table(
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
        arguments: `read_training_arguments` of the file.
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
    classes, why = (num_classes, "as given") if num_classes is not None else _count(arguments, rows)
    if classes is None:
        raise ValueError(
            f"{path} has a table of {rows} classes and does not say whether the last is the null "
            f"class: give num_classes, {rows} if it was trained without dropped labels (then it "
            f"cannot be guided), {rows - 1} if with"
        )
    if rows not in (classes, classes + 1):
        raise ValueError(
            f"{path} has a table of {rows} rows, which {classes} classes ({why}) do not fit: give "
            f"num_classes, {rows - 1} with a null class, {rows} without"
        )
    has_null = rows == classes + 1
    end = f"row {classes} is the null class" if has_null else NO_NULL
    notes.append(f"{classes} classes {why}, {end}")
    return {"num_classes": classes, "null_class": has_null}


def _count(arguments: Mapping[str, Any], rows: int) -> tuple[int | None, str]:
    """Return the number of classes in a table of so many rows, None where it may be meant either
    way, and what tells it.
    """
    for name in CLASSES:
        if name in arguments:
            return arguments[name], "as its arguments say"
    for name in DROPOUTS:
        if name in arguments:
            dropout = arguments[name]
            classes = rows - 1 if dropout > 0 else rows
            return classes, f"as its label dropout of {dropout:g} says"
    return (None, "") if rows in ROUND_NUMBERS else (rows - 1, "as usual")
