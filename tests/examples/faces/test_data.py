"""The faces that ship, the data module of the teacher's training, and the file that both come from."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from freeflow_lightning.examples.faces import FacesDataModule, FacesSamples, load_faces, read_faces
from freeflow_lightning.examples.faces.data import hold_out_faces, load_moments
from freeflow_lightning.metrics import FacesFeatures
from places import ROOT

SCRIPT = ROOT / "notebooks" / "tools" / "faces" / "rasterize.py"


@pytest.fixture(scope="module")
def rasterize():
    spec = importlib.util.spec_from_file_location("rasterize", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_faces(path, count):
    """A file of `count` pictures, the k-th of colour k, in the layout of rasterize.py."""
    colours = np.arange(count, dtype=np.uint8)
    np.savez(
        path,
        pictures=np.broadcast_to(colours[:, None, None, None], (count, 16, 16, 3)),
        labels=colours % 8,
        attributes=np.stack([colours % 2, colours % 3], axis=1),
        names=np.array(json.dumps({"skin": ["a", "b"], "mouth": ["c", "d", "e"]})),
    )
    return path


def test_shipped_faces_are_real_and_of_every_class():
    faces = load_faces()
    assert faces.pictures.shape == (2000, 3, 16, 16)
    assert faces.pictures.dtype == torch.uint8
    assert faces.labels.bincount().tolist() == [250] * 8
    assert len(faces.pictures.flatten(1).unique(dim=0)) == 2000


def test_shipped_moments_are_those_of_the_shipped_network():
    """Of 10,000 faces, of which 2,000 ship: their mean lies within a few standard errors."""
    faces, moments = load_faces(), load_moments()
    features = FacesFeatures()(faces.pictures).double()
    error = (features.mean(0) - moments.mean).abs()
    assert (error < 6 * moments.covariance.diagonal().sqrt() / 2000**0.5 + 1e-6).all()


def test_samples_are_shipped_faces_moved_by_at_most_the_shift():
    faces = load_faces()
    known = {picture.numpy().tobytes(): int(c) for picture, c in zip(*faces, strict=True)}
    plain, labels = FacesSamples().draw(16, torch.Generator().manual_seed(0))
    seen = ((plain + 1) * 127.5).round().byte()
    assert [known[picture.numpy().tobytes()] for picture in seen] == labels.tolist()
    samples = FacesSamples(shift=2)
    moved, _ = samples.draw(256, torch.Generator().manual_seed(0))
    picture = samples.faces[0][
        torch.randint(2000, (256,), generator=torch.Generator().manual_seed(0))
    ]
    places = set()
    for x, wide in zip(moved, picture, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(x, wide[:, top : top + 16, left : left + 16])
        ]
        assert found
        places.update(found)
    assert len(places) == 25


def test_the_data_module_repeats_its_faces_and_leaves_out_those_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("freeflow_lightning.examples.faces.data.HELD_OUT_SAMPLES", 20)
    path = write_faces(tmp_path / "faces.npz", 100)
    module = FacesDataModule(str(path), batch_size=16, length=20, seed=1)
    batches = list(module.train_dataloader())
    assert len(batches) == 20
    colours = torch.cat([x[:, 0, 0, 0] for x, _ in batches])
    numbers = ((colours + 1) * 127.5).round().long()
    assert numbers.max() == 79
    assert numbers.min() == 0
    assert torch.equal(torch.cat([labels for _, labels in batches]), numbers % 8)
    again = torch.cat([x[:, 0, 0, 0] for x, _ in module.train_dataloader()])
    assert torch.equal(colours, again)


def test_a_file_is_read_with_its_attributes(tmp_path):
    faces = read_faces(write_faces(tmp_path / "faces.npz", 30))
    training, held_out = hold_out_faces(faces, 10)
    assert (len(training.labels), len(held_out.labels)) == (20, 10)
    assert held_out.attributes[0].tolist() == [0, 2]
    assert faces.names["mouth"][2] == "e"
    assert faces.pictures[29].unique().tolist() == [29]


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no faces at .*gone\.npz: make them with"):
        read_faces(tmp_path / "gone.npz")


def test_shapes_fill_the_pixels_whose_centres_they_cover(rasterize):
    square = '<path d="M2 1h3v2H2z" fill="#f00"/>'
    half = '<rect x="4" y="0" width="1" height="16" fill="#00ff00" fill-opacity=".5"/>'
    ring = '<path fill-rule="evenodd" d="M8 8h5v5H8zM9 9h3v3H9z" fill="#000"/>'
    nothing = '<path d="M0 0h16v16H0z" fill="none"/>'
    picture = rasterize.draw([square, half, ring, nothing])
    assert picture[1:3, 2:4].reshape(-1, 3).tolist() == [[255, 0, 0]] * 4
    assert picture[1, 4].tolist() == [128, 128, 0]
    assert picture[0, 2].tolist() == picture[3, 2].tolist() == [255, 255, 255]
    assert picture[8, 8].tolist() == [0, 0, 0]
    assert picture[10, 10].tolist() == [255, 255, 255]
    assert (picture == 0).all(axis=2).sum() == 25 - 9


def test_slanted_lines_and_curves_are_refused(rasterize):
    with pytest.raises(ValueError, match="expected horizontal and vertical lines"):
        rasterize.winding_numbers("M0 0L3 3H0z")
    with pytest.raises(ValueError, match="expected a path of M, H, V, L and Z"):
        rasterize.winding_numbers("M0 0c1 1 2 2 3 3z")
