"""The faces: data for the embedded teacher (a file that notebooks/tools/faces makes), and the
pictures that ship with the package.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from freeflow_lightning.flow import Samples, check_counts
from freeflow_lightning.metrics import Moments
from freeflow_lightning.training.data import SettingsOnly

HELD_OUT_SAMPLES = 10_000
REFERENCE = Path(str(files("freeflow_lightning") / "assets" / "faces_reference.npz"))
"""Held-out faces in ADM's layout: arr_0, arr_1 (classes), and mu and sigma of FacesFeatures."""


class Faces(NamedTuple):
    """Pictures, uint8 [N, 3, 16, 16], their classes 0 .. 7, int64 [N], and attributes, int64 [N, A].

    The class is the sum of 1 for glasses, 2 for a hat and 4 for long hair.
    """

    pictures: Tensor
    labels: Tensor
    attributes: Tensor
    names: dict[str, list[str]]
    """The values of each attribute, in the order of its numbers."""


def read_faces(path: str | Path) -> Faces:
    """Return all faces of a file that notebooks/tools/faces/rasterize.py wrote.

    Raises:
        FileNotFoundError: no such file; the message says how to make it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no faces at {path}: make them with `make faces-data` (needs node), which writes "
            f"faces.npz"
        )
    with np.load(path, allow_pickle=False) as file:
        return Faces(
            torch.from_numpy(file["pictures"]).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(file["labels"].astype(np.int64)),
            torch.from_numpy(file["attributes"].astype(np.int64)),
            json.loads(str(file["names"])),
        )


def hold_out_faces(faces: Faces, held_out: int) -> tuple[Faces, Faces]:
    """Return the faces to train on, and the last ones, which nothing is trained on."""
    return _rows(faces, slice(None, -held_out)), _rows(faces, slice(-held_out, None))


def _rows(faces: Faces, rows: slice) -> Faces:
    return Faces(faces.pictures[rows], faces.labels[rows], faces.attributes[rows], faces.names)


class ShippedFaces(NamedTuple):
    """The first 2,000 held-out faces, uint8 [2000, 3, 16, 16], and their classes, int64 [2000]."""

    pictures: Tensor
    labels: Tensor


def load_faces() -> ShippedFaces:
    """Return the faces that ship with the package: real ones, which no network was trained on.

    >>> load_faces().pictures.shape
    torch.Size([2000, 3, 16, 16])
    """
    with np.load(REFERENCE, allow_pickle=False) as file:
        return ShippedFaces(
            torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(file["arr_1"].astype(np.int64)),
        )


def load_moments() -> Moments:
    """Return the moments of all 10,000 held-out faces in the features of FacesFeatures."""
    with np.load(REFERENCE, allow_pickle=False) as file:
        return Moments(torch.from_numpy(file["mu"]), torch.from_numpy(file["sigma"]))


@dataclass(frozen=True)
class FacesSamples(Samples):
    """The faces that ship with the package, for `DataStates`; moved at random, they fit no teacher.

    Args:
        shift: each face is moved by up to so many pixels either way, its edge repeated: 0 to 15.

    >>> pictures, labels = FacesSamples(shift=2).draw(4, Generator().manual_seed(0))
    >>> pictures.shape, labels.shape
    (torch.Size([4, 3, 16, 16]), torch.Size([4]))
    """

    shift: int = 0

    def __post_init__(self) -> None:
        check_counts(0, shift=self.shift)

    @cached_property
    def faces(self) -> tuple[Tensor, Tensor]:
        """All pictures, float32 in [-1, 1], with their edges repeated, and their classes."""
        shipped = load_faces()
        pictures = shipped.pictures.float() / 127.5 - 1
        return pad(pictures, [self.shift] * 4, mode="replicate"), shipped.labels

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        pictures, labels = self.faces
        rows = torch.randint(len(labels), (n,), generator=generator)
        corners = torch.randint(2 * self.shift + 1, (n, 2), generator=generator).tolist()
        cut = [
            picture[:, top : top + 16, left : left + 16]
            for picture, (top, left) in zip(pictures[rows], corners, strict=True)
        ]
        return torch.stack(cut), labels[rows]


class FacesDataModule(SettingsOnly):
    """Endless-looking epochs of random faces to train on, drawn with replacement.

    Args:
        path: file that notebooks/tools/faces/rasterize.py wrote.
        batch_size: pictures per batch.
        length: batches per epoch.
        seed: seed of the order.
    """

    def __init__(self, path: str, batch_size: int = 64, length: int = 500, seed: int = 0) -> None:
        super().__init__()
        self.path = path
        self.batch_size = batch_size
        self.length = length
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        faces, _ = hold_out_faces(read_faces(self.path), HELD_OUT_SAMPLES)
        data = TensorDataset(faces.pictures.float() / 127.5 - 1, faces.labels)
        generator = Generator().manual_seed(self.seed)
        order = RandomSampler(
            data, replacement=True, num_samples=self.batch_size * self.length, generator=generator
        )
        return DataLoader(data, self.batch_size, sampler=order, generator=generator)
