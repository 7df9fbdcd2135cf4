"""Whole files only, and no samples of another kind among them."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from freeflow_lightning.sample_folder import PART, SampleFolder, clear

N = 2 * PART + 5


def drawn(folder, part, channels=3):
    index = folder.indices(part)
    x = torch.arange(channels * 16).view(channels, 4, 4)
    return ((x + 7 * index.view(-1, 1, 1, 1)) % 256).to(torch.uint8)


def made(path, npz, count=N, about=None):
    folder = SampleFolder(path, count, {"seed": 0} if about is None else about, npz=npz)
    folder.open()
    return folder


def fill(folder, parts):
    for part in parts:
        folder.write(part, drawn(folder, part), folder.indices(part) % 3)


@pytest.mark.parametrize("npz", [True, False])
def test_the_order_of_writing_does_not_matter(tmp_path, npz):
    for name, order in {"a": [0, 1, 2], "b": [2, 0, 1]}.items():
        folder = made(tmp_path / name, npz)
        assert folder.missing() == [0, 1, 2]
        fill(folder, order[:1])
        assert folder.missing() == sorted(order[1:])
        fill(made(tmp_path / name, npz), order[1:])  # another process, or another run
        folder.finish()
        assert folder.missing() == []
        assert torch.equal(folder.first(70)[:, :, 0, 0], torch.cat([drawn(folder, part) for part in range(3)])[:70, :, 0, 0])
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab")
    assert a == b
    assert len(a) == (3 if npz else N + 2)


def test_the_npz_is_numpys_own(tmp_path):
    """numpy reads it, and so does whoever reads headers alone, as ADM's evaluator does."""
    folder = made(tmp_path, npz=True)
    fill(folder, range(3))
    folder.finish()
    expected = torch.cat([drawn(folder, part) for part in range(3)]).permute(0, 2, 3, 1).numpy()
    with np.load(tmp_path / "samples.npz") as file:
        assert np.array_equal(file["arr_0"], expected)
        assert np.array_equal(file["arr_1"], np.arange(N) % 3)
    written = io.BytesIO()
    np.save(written, expected)
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        assert archive.read("arr_0.npy") == written.getvalue()
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_pixels(tmp_path, channels):
    folder = SampleFolder(tmp_path, 3, {}, npz=False)
    folder.open()
    folder.write(0, drawn(folder, 0, channels), None)
    folder.finish()
    assert torch.equal(folder.first(256), drawn(folder, 0, channels))
    assert Image.open(tmp_path / "000001.png").size == (4, 4)
    assert Image.open(tmp_path / "grid.png").size[1] == 512


def test_half_a_file_is_missing_and_swept_up(tmp_path):
    folder = made(tmp_path, npz=True)
    fill(folder, [0, 2])
    (tmp_path / "parts" / ".00000064-00000127.npz.77.tmp").write_bytes(b"half")
    assert folder.missing() == [1]
    fill(folder, [1])
    folder.finish()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["grid.png", "samples.json", "samples.npz"]


def test_more_png_files_are_added_and_other_samples_refused(tmp_path):
    folder = made(tmp_path, npz=False, count=5)
    fill(folder, [0])
    folder.finish()
    assert made(tmp_path, npz=False, count=N).missing() == [0, 1, 2]  # the first part is five, now it is sixty-four
    with pytest.raises(ValueError, match="holds samples of another seed: choose another --output, or --overwrite"):
        made(tmp_path, npz=False, about={"seed": 1})
    with pytest.raises(ValueError, match="another count, format"):
        made(tmp_path, npz=True)
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(ValueError, match="holds samples of another"):
        made(tmp_path, npz=False)
    (tmp_path / "mine.png").write_bytes(b"")
    (tmp_path / "2024.png").write_bytes(b"")
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2024.png", "mine.png"]
    assert json.loads((made(tmp_path, npz=False).path / "samples.json").read_text()) == {"seed": 0, "format": "png"}


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        SampleFolder(tmp_path, 0, {}, npz=False)
