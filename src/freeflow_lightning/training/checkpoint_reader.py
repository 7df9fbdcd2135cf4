"""Checkpoints read from any place, as tensors and plain values: nothing in them is executed."""

import re
from pathlib import Path
from typing import Any

from freeflow_lightning.training.checkpoint_damage import unreadable
from freeflow_lightning.training.whole_file import read_whole


def read_checkpoint_file(
    path: str | Path, map_location: Any = "cpu", *, mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint from any place: one file, a sharded run's folder, or an address with a
    scheme (http, s3, hf, ...).

    Tensors and plain values alone are read; nothing is executed, whatever the scheme. With `mmap`
    the tensors of a file stay on the disk until they are used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged checkpoint, or one that holds more than tensors and plain values.
    """
    if not is_remote(path) and not Path(path).exists():
        expected = "expected a .ckpt file, for example runs/NAME/version_0/checkpoints/last.ckpt"
        if str(path).startswith("embedded:"):
            expected = (
                "this is a teacher, and expected is a student's .ckpt file; a teacher draws by "
                f"`freeflow sample --teacher SiTTeacher --teacher.checkpoint {path}`"
            )
        raise FileNotFoundError(f"no checkpoint at {path}: {expected}")
    try:
        if is_remote(path):
            from lightning.fabric.utilities.cloud_io import _load  # noqa: PLC0415 (Lightning: seconds that files here do without)

            return _load(str(path), map_location, weights_only=True)
        if Path(path).is_dir():
            from freeflow_lightning.training.sharded_checkpoint import read_sharded  # noqa: PLC0415 (torch.distributed.checkpoint: a second that files do without)

            return read_sharded(Path(path))
        return read_whole(Path(path), map_location, mmap=mmap)
    except Exception as error:
        raise unreadable(path, error) from error


def is_remote(path: str | Path) -> bool:
    """Return whether a path names a scheme; pathlib leaves one slash of its two.

    >>> is_remote("https://a.org/last.ckpt"), is_remote(Path("s3://a/last.ckpt")), is_remote("runs/last.ckpt")
    (True, True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None
