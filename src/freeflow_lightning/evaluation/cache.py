"""Tensors on the disk under a content key, checked as they are read."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from freeflow_lightning.sampling.hashes import digest_tensors
from freeflow_lightning.training.atomic_write import sweep, write_file

log = logging.getLogger(__name__)

CACHED = re.compile(r"[0-9a-f]{32}\.safetensors")
"""Name of a file of the cache."""


def read_cache(path: Path) -> dict[str, Tensor] | None:
    """Cached tensors; None where there are none or they are damaged (then they are made again, and
    the log says so).
    """
    try:
        if not path.is_file():
            return None
        content = load(path.read_bytes())
        digest = content.pop("digest")
        if not torch.equal(digest, _digest(content)):
            raise ValueError("its checksum is another")
    except OSError as error:
        log.warning("the cached reference cannot be read (%s): drawing it again", error)
        return None
    except (SafetensorError, KeyError, ValueError) as error:
        log.warning("the cached reference %s is damaged (%s): drawing it again", path, error)
        return None
    return content


def write_cache(path: Path, content: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write with a checksum, whole or not at all, and sweep what killed processes have left in the
    cache.

    What cannot be written is said in the log, and nothing else is lost by it.
    """
    try:
        sweep(path.parent, (), CACHED)
        with write_file(path) as temporary:
            temporary.write_bytes(
                save(content | {"digest": _digest(content)}, {"facts": json.dumps(facts)})
            )
    except OSError as error:
        log.warning(
            "what was drawn of the teacher could not be kept in %s (%s), and is drawn again the "
            "next time: make room there, or name another folder in FREEFLOW_CACHE",
            path.parent,
            error,
        )


def _digest(content: dict[str, Tensor]) -> Tensor:
    """Return the checksum as a tensor, uint8 [32]."""
    return torch.tensor(list(digest_tensors(content)), dtype=torch.uint8)
