"""A folder of samples that survives an interruption: whole files only, and a note of what they are."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from freeflow_lightning import plots

PART = 64
"""Samples that are written, or missing, together."""
GRID = 256


@final
class SampleFolder:
    """PNG files, or one samples.npz in the layout of ADM's evaluator: arr_0 uint8 [N, H, W, C], and arr_1 the classes.

    Samples are written in parts of 64, each file under a temporary name first: what is there is whole, and a second run
    draws what is missing. The file samples.json says what the samples are; others are not mixed in.

    Args:
        path: the folder; made if it does not exist.
        count: samples that it will hold.
        about: all that the samples depend on, as JSON.
        npz: one .npz instead of PNG files. Samples that are no pictures are always written so.

    Raises:
        ValueError: no samples asked for, or the folder holds other samples.
    """

    def __init__(self, path: Path, count: int, about: dict[str, Any], *, npz: bool) -> None:
        if count < 1:
            raise ValueError(f"expected at least one sample, got {count}")
        self.path, self.count, self.npz = path, count, npz
        self.about = about | {"format": "npz" if npz else "png"} | ({"count": count} if npz else {})

    def open(self) -> None:
        """Make the folder with its note, or see that the note there says the same (one process does)."""
        note = self.path / "samples.json"
        if note.is_file():
            try:
                held = json.loads(note.read_text())
            except json.JSONDecodeError:
                held = {}
            other = sorted(key for key in held.keys() | self.about.keys() if held.get(key) != self.about.get(key))
            if other:
                raise ValueError(
                    f"{self.path} holds samples of another {', '.join(other)}: choose another --output, or --overwrite"
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        _write_whole(note, lambda file: file.write(json.dumps(self.about, indent=1).encode()))

    def missing(self) -> list[int]:
        """The parts that are not there yet, rising."""
        if (self.path / "samples.npz").is_file():
            return []
        there = {entry.name for entry in os.scandir(self.path)}
        if (self.path / "parts").is_dir():
            there |= {entry.name for entry in os.scandir(self.path / "parts")}
        return [part for part in range(-(-self.count // PART)) if not all(name in there for name in self._names(part))]

    def indices(self, part: int) -> Tensor:
        """The samples of a part, [at most 64]."""
        return torch.arange(part * PART, min((part + 1) * PART, self.count))

    def write(self, part: int, drawn: Tensor, labels: Tensor | None) -> None:
        """Write a part: pictures uint8 [n, C, H, W], or other samples [n, ...], and their classes [n]."""
        if not self.npz:
            for name, picture in zip(self._names(part), drawn, strict=True):
                image = Image.fromarray(plots.grid(picture[None]))
                _write_whole(self.path / name, lambda file, image=image: image.save(file, "PNG"))
            return
        arrays: dict[str, Any] = {"arr_0": _channels_last(drawn)} | ({} if labels is None else {"arr_1": labels.numpy()})
        (name,) = self._names(part)
        _write_whole(self.path / "parts" / name, lambda file: np.savez(file, **arrays))

    def finish(self) -> None:
        """Join the parts, draw grid.png, and sweep up what an interrupted run has left (one process does)."""
        if self.npz and not (self.path / "samples.npz").is_file():
            self._join()
        for left in (*self.path.glob(".*.tmp"), *self.path.glob("parts/*")):
            left.unlink()
        if (self.path / "parts").is_dir():
            (self.path / "parts").rmdir()
        self._draw_grid()

    def first(self, n: int) -> Tensor:
        """The first samples of a finished folder, as they were written."""
        n = min(n, self.count)
        if self.npz:
            stored = torch.from_numpy(_head(self.path / "samples.npz", n))
            return stored.permute(0, 3, 1, 2) if stored.dtype == torch.uint8 else stored
        arrays = [np.asarray(Image.open(self.path / f"{i:06d}.png")) for i in range(n)]
        stacked = torch.from_numpy(np.stack(arrays))
        return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)

    def _names(self, part: int) -> list[str]:
        index = self.indices(part).tolist()
        return [f"{index[0]:08d}-{index[-1]:08d}.npz"] if self.npz else [f"{i:06d}.png" for i in index]

    def _join(self) -> None:
        """samples.npz from the parts, one part in memory at a time; its bytes depend on the samples alone."""
        paths = [self.path / "parts" / self._names(part)[0] for part in range(-(-self.count // PART))]
        with np.load(paths[0]) as part:
            shapes = {name: (part[name].dtype, part[name].shape[1:]) for name in part.files}

        def write(file: BinaryIO) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, (dtype, shape) in shapes.items():
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                        header = {
                            "descr": np.lib.format.dtype_to_descr(dtype),
                            "fortran_order": False,
                            "shape": (self.count, *shape),
                        }
                        np.lib.format.write_array_header_1_0(entry, header)
                        for path in paths:
                            with np.load(path) as part:
                                entry.write(np.ascontiguousarray(part[name]).tobytes())

        _write_whole(self.path / "samples.npz", write)

    def _draw_grid(self) -> None:
        drawn = self.first(GRID)
        if drawn.ndim == 4:
            save_sheet(drawn, self.path / "grid.png")
        elif drawn.shape[1:] == (2,):
            plots.save(plots.points({"samples": drawn}), self.path / "grid.png")


def save_sheet(drawn: Tensor, path: Path) -> None:
    """Pictures, uint8 [N, C, H, W], as one of at least 512 pixels if they are small."""
    sheet = Image.fromarray(plots.grid(drawn))
    zoom = max(1, 512 // sheet.height)
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST).save(path)


def clear(path: Path) -> None:
    """Remove the samples of a folder, and nothing that a SampleFolder did not write."""
    names = ("samples.json", "samples.npz", "grid.png", ".*.tmp", "parts/*", "[0-9][0-9][0-9][0-9][0-9][0-9]*.png")
    for found in [found for name in names for found in path.glob(name)]:
        found.unlink()


def _channels_last(drawn: Tensor) -> np.ndarray:
    return (drawn.permute(0, 2, 3, 1) if drawn.ndim == 4 else drawn).numpy()


def _head(path: Path, n: int) -> np.ndarray:
    """The first n rows of arr_0, without reading the others."""
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        shape = (min(n, shape[0]), *shape[1:])
        return np.frombuffer(file.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()


def _write_whole(path: Path, write: Any) -> None:
    """Write under a temporary name, then rename: a reader, or a second run, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)
