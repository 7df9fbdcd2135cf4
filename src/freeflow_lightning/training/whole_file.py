"""Files that torch.save wrote, read after each of their records has been compared with its checksum."""

import zipfile
from pathlib import Path
from typing import Any

import torch


def check_records(path: Path) -> None:
    """Compare every record of a file that torch.save wrote with its CRC32 (Raises: ValueError)."""
    if not zipfile.is_zipfile(path):
        return  # torch's older format, or no checkpoint at all: torch.load tells
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise ValueError(f"{changed} has changed since it was written")


def read_whole(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """Return the content of a file that torch.save wrote, after each of its records has been
    checked.
    """
    check_records(path)
    in_place = mmap and zipfile.is_zipfile(path)
    content: dict[str, Any] = torch.load(
        path, map_location=map_location, weights_only=True, mmap=in_place
    )
    return content
