"""The files of a sharded run's checkpoint, and what of it is no tensor."""

import os
import re
from pathlib import Path
from typing import Any

from freeflow_lightning.training.whole_file import read_whole

META = "meta.pt"
"""What Lightning calls the part of a sharded checkpoint that is no tensor."""
PARTS = re.compile(r"\.metadata|meta\.pt|__\d+_\d+\.distcp")
"""The files of such a folder."""


def refuse_other_folder(path: Path) -> None:
    """Refuse to replace a folder that is no sharded run's checkpoint, or holds more than one.

    Raises:
        ValueError: with a name that is no part of a checkpoint.
    """
    if not path.is_dir():
        return
    others = [name for name in sorted(os.listdir(path)) if not PARTS.fullmatch(name)]
    if others:
        raise ValueError(
            f"{path} is a folder with {others[0]!r} in it, which is no part of a checkpoint: move "
            "the folder away, or give checkpoints another name"
        )


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the part of a sharded run's checkpoint that is no tensor."""
    return read_whole(folder / META)
