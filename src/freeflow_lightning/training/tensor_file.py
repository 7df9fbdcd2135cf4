"""A file of torch.save whose tensors stay on the disk until they are asked for by name."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

HEADER = struct.Struct("<26x2H")
"""Of a record in a zip file: the lengths of its name and of its extra field."""


class TensorFile(NamedTuple):
    """What a file holds, without the numbers of its tensors.

    Attributes:
        path: of the file.
        content: what was saved; a tensor in it is its shape and its place in the file.
        records: those of the zip file, by the place where their bytes begin.
    """

    path: Path
    content: Any
    records: Mapping[int, zipfile.ZipInfo]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read all but the tensors' numbers, each record against its CRC32; nothing is executed.

        Raises:
            Exception: whatever a file that is none makes of its reader.
        """
        records = _check_records(path)
        return cls(path, _read_shapes(path), records)

    def read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of the content with their numbers, by the same names.

        Raises:
            zipfile.BadZipFile: numbers that are not those that were written, by their CRC32.
            KeyError, EOFError, OSError: a file that was cut or changed since it was opened.
        """
        storages: dict[int, torch.UntypedStorage] = {}
        with zipfile.ZipFile(self.path) as archive:
            return {
                name: _fill(tensor, archive, self.records, storages)
                for name, tensor in tensors.items()
            }


def _read_shapes(path: Path) -> Any:
    if hasattr(torch.serialization, "_is_meta_location"):
        return torch.load(path, map_location="meta", weights_only=True)
    with FakeTensorMode():  # older torch: it imports the compiler's parts, which takes a second
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_records(path: Path) -> dict[int, zipfile.ZipInfo]:
    """Return the records by the place where their bytes begin; those without tensors are read, and
    so compared with their CRC32.
    """
    records = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for record in archive.infolist():
            file.seek(record.header_offset)
            lengths = HEADER.unpack(file.read(HEADER.size))
            records[record.header_offset + HEADER.size + sum(lengths)] = record
            if not record.filename.rpartition("/")[0].endswith("/data"):
                archive.read(record)
    return records


def _fill(
    empty: Tensor,
    archive: zipfile.ZipFile,
    records: Mapping[int, zipfile.ZipInfo],
    storages: dict[int, torch.UntypedStorage],
) -> Tensor:
    """Return a tensor with its numbers, which zipfile compares with their CRC32 while it reads."""
    held = empty.untyped_storage()
    if not held.nbytes():
        return torch.empty_strided(empty.shape, empty.stride(), dtype=empty.dtype)
    place = held._checkpoint_offset  # documented in torch's notes on serialization
    assert place is not None  # its storage is not empty
    if place not in storages:
        data = bytearray(archive.read(records[place]))
        storages[place] = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
    flat = torch.empty(0, dtype=empty.dtype)
    return flat.set_(storages[place], empty.storage_offset(), empty.shape, empty.stride())
