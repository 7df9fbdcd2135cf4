"""Samples as bytes: a PNG that says its class, an npz in the layout of ADM's evaluator, a sheet."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from freeflow_lightning.sampling.sheets import picture_array, sheet_of
from freeflow_lightning.training.output_folder import write_bytes


def encode_png(picture: Tensor, label: int | None = None) -> bytes:
    """Return a picture, uint8 [C, H, W], as a PNG that says its class, where there is one:
    Image.open(...).text["class"].
    """
    return _encode(Image.fromarray(picture_array(picture)), label)


def read_picture(path: Path) -> Tensor:
    """Read a picture file of 8 bits a channel, uint8 [C, H, W]: of a palette its colours.

    Raises:
        ValueError: no picture, a damaged one, or one of another depth.
    """
    try:
        with Image.open(path) as image:
            array = np.array(image.convert("RGB") if image.mode == "P" else image)
    except Exception as error:  # damaged bytes have no common error
        raise ValueError(f"{path} cannot be read as a picture ({error})") from error
    if array.dtype != np.uint8:
        raise ValueError(f"{path} is no picture of 8 bits a channel, but of {array.dtype}")
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()


def read_pictures(paths: Sequence[Path]) -> Tensor:
    """Read PNGs of one size, uint8 [N, C, H, W]."""
    arrays = [np.asarray(Image.open(path)) for path in paths]
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)


def encode_npz(drawn: Tensor, labels: Tensor | None) -> bytes:
    """Return samples [N, ...] as an npz: arr_0 with the channels last, arr_1 the classes [N]."""
    last = drawn.permute(0, 2, 3, 1) if drawn.ndim == 4 else drawn
    arrays: dict[str, Any] = {"arr_0": last.numpy()}
    if labels is not None:
        arrays["arr_1"] = labels.numpy()
    written = io.BytesIO()
    np.savez(written, **arrays)
    return written.getvalue()


def join_npz(parts: Sequence[Path], target: Path, count: int) -> None:
    """Join npz files along the first axis, to `count` rows, with one in memory at a time; the bytes
    depend on the rows alone.
    """
    with np.load(parts[0]) as part:
        shapes = {name: (part[name].dtype, part[name].shape[1:]) for name in part.files}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, (dtype, shape) in shapes.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (count, *shape),
            }
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for path in parts:
                    with np.load(path) as part:
                        entry.write(np.ascontiguousarray(part[name]).tobytes())


def read_npz_samples(path: Path, n: int) -> Tensor:
    """Read the first n samples of an npz [n, ...], channels first, without reading the others."""
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        shape = (min(n, shape[0]), *shape[1:])
        data = file.read(int(np.prod(shape)) * dtype.itemsize)
    stored = torch.from_numpy(np.frombuffer(data, dtype).reshape(shape).copy())
    return stored.permute(0, 3, 1, 2) if stored.dtype == torch.uint8 else stored


def read_classes(paths: Sequence[Path]) -> list[int] | None:
    """Read the classes that PNGs say; None where they say none."""
    found = []
    for path in paths:
        with Image.open(path) as image:
            found += [int(image.info["class"])] if "class" in image.info else []
    return found or None


def read_npz_classes(path: Path, n: int) -> list[int] | None:
    """Read the classes of the first n samples of an npz; None where it has none."""
    with np.load(path) as arrays:
        return arrays["arr_1"][:n].tolist() if "arr_1" in arrays.files else None


def encode_sheet(
    drawn: Tensor, columns: int | None = None, classes: Sequence[int] | None = None
) -> bytes | None:
    """Return a PNG of all samples: pictures, uint8 [N, C, H, W], with their classes, or points in
    the plane, [N, 2]; None of others.
    """
    if drawn.ndim == 4:
        captions = None if classes is None else [str(label) for label in classes]
        return _encode(sheet_of(drawn, columns, captions))
    if drawn.shape[1:] == (2,):
        from freeflow_lightning.sampling import plots  # noqa: PLC0415 (matplotlib: half a second that pictures do without)

        return plots.png(plots.points({"samples": drawn}))
    return None


def save_sheet(drawn: Tensor, path: Path, captions: Sequence[str] | None = None) -> None:
    """Write the sheet of pictures, uint8 [N, C, H, W], with a word above each."""
    write_bytes(path, _encode(sheet_of(drawn, captions=captions)))


def _encode(image: Image.Image, label: int | None = None) -> bytes:
    written = io.BytesIO()
    words = PngInfo()
    if label is not None:
        words.add_text("class", str(label))
    image.save(written, "PNG", pnginfo=words)
    return written.getvalue()
