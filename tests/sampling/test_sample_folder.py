"""Whole files only, and no samples of another kind among them."""

import io
import json
import os
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from freeflow_lightning.sampling.sample_folder import PART, SampleFolder

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
        assert torch.equal(
            folder.first(70)[:, :, 0, 0],
            torch.cat([drawn(folder, part) for part in range(3)])[:70, :, 0, 0],
        )
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
    folder.write(0, drawn(folder, 0, channels), torch.tensor([4, 0, 2]))
    folder.finish()
    assert torch.equal(folder.first(256), drawn(folder, 0, channels))
    assert [Image.open(tmp_path / f"00000{k}.png").text["class"] for k in range(3)] == list("402")
    assert Image.open(tmp_path / "000001.png").size == (4, 4)
    tile, gap, words = 256, 15, 31
    assert Image.open(tmp_path / "grid.png").size == (2 * tile + gap, 2 * (words + tile))


def test_half_a_file_is_missing_and_swept_up(tmp_path):
    folder = made(tmp_path, npz=True)
    fill(folder, [0, 2])
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    leftover = f".00000064-00000127.npz.{socket.gethostname()}.{gone.stdout.strip()}.tmp"
    (tmp_path / "parts" / leftover).write_bytes(b"half")
    assert folder.missing() == [1]
    fill(folder, [1])
    folder.open()
    folder.finish()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "grid.png",
        "samples.json",
        "samples.npz",
    ]


def test_more_png_files_are_added_and_other_samples_refused(tmp_path):
    folder = made(tmp_path, npz=False, count=5)
    fill(folder, [0])
    folder.finish()
    assert made(tmp_path, npz=False, count=N).missing() == [
        0,
        1,
        2,
    ]  # the first part is five, now it is sixty-four
    with pytest.raises(
        ValueError, match="holds samples of another seed: choose another --output, or --overwrite"
    ):
        made(tmp_path, npz=False, about={"seed": 1})
    with pytest.raises(ValueError, match="another count, format"):
        made(tmp_path, npz=True)
    (tmp_path / "samples.json").write_text("{")
    for overwrite in (False, True):
        with pytest.raises(
            ValueError, match=r"holds .*, which this version of freeflow sample has not written"
        ):
            SampleFolder(tmp_path, N, {"seed": 0}, npz=False).open(overwrite=overwrite)


def test_overwriting_removes_what_the_note_lists_and_nothing_else(tmp_path):
    fill(made(tmp_path, npz=False), range(2))  # interrupted: records list these files
    others = [
        "mine.png",
        "2024.png",
        "123456.png",
        ".draft.tmp",
        "parts/chapter1.txt",
        "parts/00000000-00000063.npz",
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    folder = SampleFolder(tmp_path, 5, {"seed": 1}, npz=False)
    folder.open(overwrite=True)
    assert sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    ) == sorted([*others, "samples.json"])
    note = json.loads((tmp_path / "samples.json").read_text())
    assert note == {"seed": 1, "format": "png", "freeflow": {"verb": "sample", "files": {}}}
    fill(folder, [0])
    folder.finish()
    assert json.loads((tmp_path / "samples.json").read_text())["freeflow"]["files"].keys() == {
        *(f"{i:06d}.png" for i in range(5)), "grid.png"
    }  # fmt: skip
    assert all((tmp_path / name).read_text() == "mine" for name in others)


FOREIGN = ["grid.png", "000002.png", "parts/00000000-00000004.json", "samples.json"]


@pytest.mark.parametrize("npz", [True, False])
@pytest.mark.parametrize("name", [*FOREIGN, "samples.npz"])
def test_a_foreign_file_of_a_name_that_would_be_written_is_refused(tmp_path, name, npz):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    written = name != ("000002.png" if npz else "samples.npz")
    for overwrite in (False, True):
        folder = SampleFolder(tmp_path, 5, {"seed": 0}, npz=npz)
        if written:
            with pytest.raises(
                ValueError,
                match=f"holds {name}, which this version of freeflow sample has not written",
            ):
                folder.open(overwrite=overwrite)
        else:
            folder.open(overwrite=overwrite)
            assert folder.missing() == [0]
            fill(folder, [0])
            folder.finish()
        assert (tmp_path / name).read_text() == '{"mine": 1}'


@pytest.mark.parametrize("name", ["000001.png", "grid.png", "samples.json"])
def test_a_link_is_not_written_through_nor_removed(tmp_path, name):
    folder = made(tmp_path / "out", npz=False, count=5)
    fill(folder, [0])
    folder.finish()
    kept = (tmp_path / "out" / name).rename(tmp_path / f"kept_{name}")
    (tmp_path / "out" / name).symlink_to(kept)
    before = kept.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="has not written"):
            SampleFolder(tmp_path / "out", 5, {"seed": 0}, npz=False).open(overwrite=overwrite)
    assert kept.read_bytes() == before
    assert os.path.islink(tmp_path / "out" / name)


def test_a_folder_of_parts_behind_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="holds parts, which"):
        made(tmp_path / "out", npz=True)


def test_a_note_that_lists_names_outside_its_folder_is_nobodys(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    made(tmp_path / "out", npz=False, count=5)
    note = json.loads((tmp_path / "out/samples.json").read_text())
    note["freeflow"]["files"] = {"../thesis.txt": "0"}
    (tmp_path / "out/samples.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="has not written"):
        SampleFolder(tmp_path / "out", 5, {"seed": 0}, npz=False).open(overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "damage", [lambda x: x[:20], lambda x: x[:-1] + bytes([x[-1] ^ 1]), lambda x: b""]
)
@pytest.mark.parametrize("npz", [True, False])
@pytest.mark.parametrize("finished", [True, False])
def test_what_is_cut_or_replaced_is_drawn_again(tmp_path, npz, finished, damage):
    folder = made(tmp_path, npz)
    fill(folder, range(3))
    if finished:
        folder.finish()
    name = ("samples.npz" if finished else "parts/00000064-00000127.npz") if npz else "000070.png"
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    again = made(tmp_path, npz)
    lost = again.missing()
    assert lost == ([0, 1, 2] if npz and finished else [1])
    fill(again, lost)
    again.finish()
    assert again.missing() == []
    assert torch.equal(again.first(N), torch.cat([drawn(folder, part) for part in range(3)]))
    assert not (tmp_path / "parts").exists()


def test_a_record_of_other_samples_proves_nothing(tmp_path):
    fill(made(tmp_path, npz=False, count=5), [0])
    record = tmp_path / "parts/00000000-00000004.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"of": "others"}))
    assert made(tmp_path, npz=False, count=5).missing() == [0]
    record.write_text(json.dumps(content))
    assert made(tmp_path, npz=False, count=5).missing() == []


def test_the_newest_record_of_a_file_is_believed(tmp_path):
    """Other versions of a library may write the same picture with other bytes."""
    fill(made(tmp_path, npz=False, count=5), [0])
    fewer = made(tmp_path, npz=False, count=3)  # its part has another name
    fewer.write(0, drawn(fewer, 0) + 1, None)
    fewer.finish()
    assert fewer.missing() == []


def test_a_kill_between_the_note_and_the_file_is_made_up(tmp_path, monkeypatch):
    """Whatever is written last before a kill, the next run goes on: every write of a run is cut off once."""
    replace, writes = type(tmp_path).replace, {"left": 10**6}

    def counted(path, target):
        if writes["left"] == 0:
            raise KeyboardInterrupt
        writes["left"] -= 1
        return replace(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", counted)
    for npz in (True, False):
        for allowed in range(7):  # as many files are written
            place = tmp_path / f"{npz}{allowed}"
            writes["left"] = allowed
            with pytest.raises(KeyboardInterrupt):
                complete(place, npz)
            writes["left"] = 10**6
            complete(place, npz)
            files = {path.name: path.read_bytes() for path in place.rglob("*")}
            assert files == complete_files(tmp_path / f"whole{npz}", npz)


def complete(place, npz):
    folder = made(place, npz, count=3)
    fill(folder, folder.missing())
    folder.finish()
    assert not (place / "parts").exists()


def complete_files(place, npz):
    complete(place, npz)
    return {path.name: path.read_bytes() for path in place.rglob("*")}


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        SampleFolder(tmp_path, 0, {}, npz=False)
