"""What a search leaves behind: parts of every row together, records beside them."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from freeflow_lightning.students.search.folder import SearchFolder, concat_states

ROWS = {"unsearched": "teacher", "searched": "found"}


def made(path, count=70, about=None, npz=True):
    folder = SearchFolder(path, count, about or {"seed": 0}, ROWS, npz=npz)
    folder.open()
    return folder


def write(folder, part, shape=(2,)):
    index = folder.indices(part)
    x = index.view(-1, *[1] * len(shape)).expand(-1, *shape)
    x = x.to(torch.uint8) if len(shape) == 3 else x.float()
    folder.write(part, dict.fromkeys(ROWS, x), None, {"score": index.tolist()})


def test_points_are_drawn_and_records_kept_in_order(tmp_path):
    folder = made(tmp_path)
    assert folder.missing() == [0, 1]
    write(folder, 1)
    assert folder.missing() == [0]
    write(folder, 0)
    assert concat_states(folder.records(), "score").tolist() == list(range(70))
    folder.finish({"nfe": 3})
    found = json.loads((tmp_path / "search.json").read_text())
    names = {"scores/00000000-00000063.json", "scores/00000064-00000069.json", "search.png"}
    assert found.pop("freeflow")["files"].keys() == names
    assert found == {"about": {"seed": 0}, "nfe": 3}
    assert (tmp_path / "search.png").is_file()
    assert folder.missing() == []
    with pytest.raises(ValueError, match="another seed"):
        made(tmp_path, about={"seed": 1})
    fresh = SearchFolder(tmp_path, 70, {"seed": 1}, ROWS, npz=True)
    fresh.open(overwrite=True)
    assert fresh.missing() == [0, 1]
    assert not (tmp_path / "search.json").exists()


def test_the_classes_of_pictures_have_their_names(tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(
        "freeflow_lightning.students.search.folder.picture_rows",
        lambda rows, title, classes, notes: captions.extend(classes) or Figure(),
    )
    folder = SearchFolder(tmp_path, 2, {"seed": 0}, ROWS, npz=True, num_classes=8)
    folder.open()
    write(folder, 0, (3, 16, 16))
    folder.finish({"labels": [1, 2]})
    assert captions == ["glasses", "hat"]


def test_more_samples_are_added_and_old_records_swept_up(tmp_path):
    few = made(tmp_path, 5, npz=False)
    write(few, 0, (1, 4, 4))
    few.finish({})
    more = made(tmp_path, 70, npz=False)
    assert more.missing() == [0, 1]
    for part in (0, 1):
        write(more, part, (1, 4, 4))
    (tmp_path / "scores/thesis.txt").write_text("mine")
    more.finish({})
    kept = ["00000000-00000063.json", "00000064-00000069.json", "thesis.txt"]
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == kept
    assert len(list((tmp_path / "searched").glob("0*.png"))) == 70


def test_a_record_that_is_missing_is_made_again(tmp_path):
    folder = made(tmp_path)
    for part in (0, 1):
        write(folder, part)
    next((tmp_path / "scores").glob("00000064*")).unlink()
    assert folder.missing() == [1]


@pytest.mark.parametrize(
    "name", ["search.json", "search.png", "scores/00000000-00000063.json", "searched/grid.png"]
)
def test_a_foreign_file_is_refused_before_anything_is_made(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(
            ValueError, match=f"holds {name.removeprefix('searched/')}, which this version"
        ):
            SearchFolder(tmp_path, 70, {"seed": 0}, ROWS, npz=True).open(overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        name.rpartition("/")[2]
    ]


def test_overwriting_leaves_what_no_note_lists(tmp_path):
    folder = made(tmp_path)
    for part in (0, 1):
        write(folder, part)
    folder.finish({})
    others = [
        "scores/mine.json",
        "scores/00000000-00000004.json",
        "thesis.txt",
        "searched/notes.txt",
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    fresh = SearchFolder(tmp_path, 70, {"seed": 1}, ROWS, npz=True)
    fresh.open(overwrite=True)
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*others, "searched/samples.json", "unsearched/samples.json"}


def test_a_record_that_is_cut_is_made_again(tmp_path):
    folder = made(tmp_path)
    for part in (0, 1):
        write(folder, part)
    folder.finish({})
    path = tmp_path / "scores/00000064-00000069.json"
    path.write_bytes(path.read_bytes()[:20])
    again = made(tmp_path)
    assert again.missing() == [1]
