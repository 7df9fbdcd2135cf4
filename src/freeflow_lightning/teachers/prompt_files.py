"""The folder of embedded prompts: index.json, shards, the empty prompt; written and checked."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

SCHEMA = 1


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of a folder of embeddings, checked."""
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no embeddings in {folder}: write them with freeflow embed --model MODEL --prompts "
            f"prompts.txt --output {folder}"
        )
    try:
        index = json.loads(path.read_text())
        if index["schema"] != SCHEMA or index["count"] < 1 or not index["shards"]:
            raise ValueError(
                f"schema {index['schema']}, {index['count']} prompts in {len(index['shards'])} "
                f"shards"
            )
        return index
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not an index that this version reads ({error}): run freeflow embed again"
        ) from error


def refuse_filled(folder: Path) -> None:
    """See that there is nothing in a folder, or no folder (Raises: ValueError)."""
    if (folder / "index.json").exists():
        raise ValueError(f"{folder} holds embeddings already: give an empty folder, or delete it")
    if folder.is_symlink() or folder.exists():
        held = (
            sorted(path.name for path in folder.iterdir())
            if folder.is_dir()
            else [f"a file, {folder.name}"]
        )
        if held:
            raise ValueError(
                f"{folder} holds {', '.join(held[:3])}: give a new folder, or an empty one"
            )


def write_prompts(
    folder: Path,
    batches: Iterable[dict[str, Tensor]],
    null: dict[str, Tensor],
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write embeddings for `Prompts`: one shard per batch, the empty prompt once, and the index;
    returns the index.

    Args:
        folder: made if it does not exist; it must not hold anything yet.
        batches: condition by argument name, the batch first: [n, L, D] token embeddings, [n, L]
            masks, [n, D] vectors.
        null: the same for the empty prompt, n = 1.
        about: further entries of the index.

    Raises:
        ValueError: files are there already, or texts of several lengths come without a mask to tell
            them apart.
    """
    refuse_filled(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    lengths: dict[str, set[int]] = {}
    count = 0

    def write(file: str, tensors: dict[str, Tensor]) -> None:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
            str(folder / file),
        )
        for name, tensor in tensors.items():
            lengths.setdefault(name, set()).update([tensor.shape[1]] if tensor.ndim > 1 else [])

    write("null.safetensors", null)
    for batch in batches:
        file, n = f"prompts_{len(shards):05d}.safetensors", len(next(iter(batch.values())))
        write(file, batch)
        shards.append({"file": file, "first": count, "count": n})
        count += n
    _refuse_uneven(lengths)
    index = {
        "schema": SCHEMA,
        **(about or {}),
        "count": count,
        "tensors": sorted(lengths),
        "lengths": {name: max(found) for name, found in lengths.items() if found},
        "shards": shards,
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    return index


def _refuse_uneven(lengths: dict[str, set[int]]) -> None:
    """Refuse texts of several lengths without a mask that tells them apart (Raises: ValueError)."""
    uneven = {name: found for name, found in lengths.items() if len(found) > 1}
    if uneven and not any("mask" in name for name in lengths):
        raise ValueError(
            f"the texts have lengths {sorted(set.union(*uneven.values()))} in {list(uneven)}, and "
            "no mask says where they end: encode them padded to one length"
        )
