"""Nothing is overwritten that a note does not list, whichever command writes."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from freeflow_lightning.students.export.write_exported import write_exported
from freeflow_lightning.teachers.prompt_files import refuse_filled
from freeflow_lightning.training import output_folder
from freeflow_lightning.training.folder_lock import lock_folder
from freeflow_lightning.training.output_folder import (
    claim_names,
    claim_picture,
    publish,
    read_listed,
)

HERE = Path()


def test_a_command_may_write_its_own_files_again():
    publish(HERE / "out", "a.json", "evaluate", {"fid": 1.0}, {"a.md": b"one"})
    publish(HERE / "out", "a.json", "evaluate", {"fid": float("inf")}, {"a.md": b"two"})
    assert Path("out/a.md").read_bytes() == b"two"
    assert json.loads(Path("out/a.json").read_text())["fid"] is None
    assert read_listed(HERE / "out/a.json", "evaluate").keys() == {"a.md"}
    with pytest.raises(
        ValueError,
        match=r"out holds a.json, a.md, which this version of freeflow diagnose has not written",
    ):
        publish(HERE / "out", "a.json", "diagnose", {}, {"a.md": b"three"})
    assert Path("out/a.md").read_bytes() == b"two"


def test_a_name_that_the_note_does_not_list_is_somebody_elses():
    publish(HERE / "out", "a.json", "evaluate", {}, {"a.md": b"one"})
    Path("out/b.png").write_text("mine")
    claim_names(HERE / "out", "a.json", "evaluate", ["a.md"])
    with pytest.raises(
        ValueError, match=r"holds b.png, which .*: move that away, or choose another folder"
    ):
        claim_names(HERE / "out", "a.json", "evaluate", ["a.md", "b.png"])


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", "{}", '{"freeflow": 3}', '{"freeflow": {"verb": "evaluate"}}']
)
def test_a_note_that_is_none_makes_nothing_ours(content):
    Path("a.json").write_text(content)
    with pytest.raises(ValueError, match=r"holds a.json, which"):
        claim_names(HERE, "a.json", "evaluate", [])
    assert Path("a.json").read_text() == content


def test_a_file_in_the_place_of_the_folder_is_said():
    Path("out").write_text("mine")
    for place in (Path("out"), Path("out/deeper")):
        with (
            pytest.raises(ValueError, match=r"expected a folder at .*, found a file"),
            lock_folder(place, "sample"),
        ):
            pass
    with pytest.raises(ValueError, match=r"expected a folder at out, found a file"):
        claim_names(Path("out"), "a.json", "evaluate", [])


def test_a_folder_that_cannot_be_is_said_before_any_work(monkeypatch):
    Path("file").write_text("mine")
    with pytest.raises(ValueError, match=r"expected a folder at .*file, found a file"):
        claim_names(HERE / "file/deep/out", "a.json", "evaluate", ["a.md"])
    monkeypatch.setattr("os.access", lambda place, mode: False)
    with pytest.raises(ValueError, match="expected a folder that can be written to, got "):
        claim_names(HERE / "out", "a.json", "evaluate", ["a.md"])


def test_a_dangling_link_is_not_followed():
    Path("a.md").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"holds a.md"):
        publish(HERE, "a.json", "evaluate", {}, {"a.md": b"one"})
    assert not Path("nowhere").exists()


def test_a_listed_name_that_is_a_link_or_a_folder_by_now_is_somebody_elses():
    publish(HERE / "out", "a.json", "evaluate", {}, {"a.md": b"one", "b.md": b"two"})
    for name in ("a.md", "b.md"):
        Path("out", name).unlink()
    Path("mine").write_text("mine")
    Path("out/a.md").symlink_to("../mine")
    Path("out/b.md").mkdir()
    for name in ("a.md", "b.md"):
        with pytest.raises(ValueError, match=f"holds {name}, which"):
            publish(HERE / "out", "a.json", "evaluate", {}, {name: b"three"})
    assert Path("mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["../thesis", "/thesis", "parts/../../thesis"])
def test_a_note_that_lists_a_name_outside_makes_nothing_ours(name):
    publish(HERE / "out", "a.json", "evaluate", {}, {})
    note = json.loads(Path("out/a.json").read_text())
    note["freeflow"]["files"][name] = "0"
    Path("out/a.json").write_text(json.dumps(note))
    assert read_listed(HERE / "out/a.json", "evaluate") is None


def test_nothing_is_removed_behind_a_link():
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("elsewhere/a.png").write_text("mine")
    Path("out/parts").symlink_to("../elsewhere")
    output_folder.remove_listed(HERE / "out", ["parts/a.png"])
    assert Path("elsewhere/a.png").read_text() == "mine"
    Path("elsewhere/a.png").unlink()
    output_folder.remove_listed(HERE / "out", ["parts/a.png"])
    assert Path("out/parts").is_dir()


def test_a_picture_names_its_maker():
    from freeflow_lightning.sampling import plots

    figure, _ = plots.canvas(figsize=(1, 1))
    claim_picture(HERE / "a.png", "inspect")
    output_folder.write_bytes(HERE / "a.png", plots.png(figure, maker="freeflow inspect"))
    claim_picture(HERE / "a.png", "inspect")
    for content in (plots.png(figure), b"thesis"):
        Path("b.png").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"b.png is there, and freeflow inspect has not written it"
        ):
            claim_picture(HERE / "b.png", "inspect")


# The commands


def asked(checkpoint):
    """Each command with a name that it writes."""
    quick = ["--num_samples", 16]
    return {
        "evaluate": (
            ["--checkpoint", checkpoint, *quick, "--output", "out"],
            ["evaluation.json", "evaluation.md"],
        ),
        "diagnose": (
            ["--checkpoint", checkpoint, *quick, "--output", "out"],
            ["diagnosis.json", "diagnosis.html"],
        ),
        "sample": (
            ["--checkpoint", checkpoint, *quick, "--output", "out"],
            ["000003.png", "grid.png", "samples.json"],
        ),
        "search": (
            ["--checkpoint", checkpoint, *quick, "--output", "out", "--verifier", "builtins.len"],
            ["search.json", "search.png", "searched/000003.png"],
        ),
        "bench": (["--size", "S/2", "--output", "out/bench.json"], ["bench.json"]),
        "inspect": (
            [
                "--teacher",
                "SiTTeacher",
                "--teacher.checkpoint",
                "embedded:digits",
                "--output",
                "out/a.png",
            ],
            ["a.png"],
        ),
    }


@pytest.mark.parametrize("verb", ["evaluate", "diagnose", "sample", "search", "bench", "inspect"])
def test_every_command_refuses_a_foreign_file_and_leaves_it(freeflow, checkpoint, verb):
    arguments, names = asked(checkpoint)[verb]
    for name in names:
        place = Path("out") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("mine")
        code, _, err = freeflow(verb, *arguments)
        assert code == 1
        assert place.name in err
        assert "has not written" in err
        assert len(err.splitlines()) == 2
        assert place.read_text() == "mine"
        assert sorted(path.name for path in Path("out").rglob("*") if path.is_file()) == [
            place.name
        ]
        place.unlink()


@pytest.mark.parametrize("name", ["report.md", "comparison.png", "report.json"])
def test_report_refuses_a_foreign_file_in_a_runs_folder(freeflow, name):
    Path("run/checkpoints").mkdir(parents=True)
    Path("run", name).write_text("mine")
    code, _, err = freeflow("report", "run")
    assert code == 1
    assert (
        f"run holds {name}, which this version of freeflow report has not written"
        in err.replace("\n", " ")
    )
    assert Path("run", name).read_text() == "mine"


# Folders that appear whole


def left_by_a_killed_process(name):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(f".{name}.{socket.gethostname()}.{dead.stdout.strip()}.tmp")


def test_an_export_sweeps_what_a_killed_one_has_left_and_replaces_its_own_files_alone():
    left = left_by_a_killed_process("out")
    left.mkdir()
    (left / "half").touch()
    with write_exported(Path("out")) as made:
        (made / "a").touch()
    assert [path.name for path in Path().iterdir()] == ["out"]
    for overwrite in (False, True):
        with (
            pytest.raises(ValueError, match="is no exported student"),
            write_exported(Path("out"), overwrite),
        ):
            pass
    assert Path("out/a").exists()


def test_what_comes_into_a_folder_while_it_is_being_written_is_not_lost():
    Path("out").mkdir()
    with pytest.raises(ValueError, match="is no exported student"), write_exported(Path("out")):
        Path("out/thesis.txt").write_text("mine")
    assert Path("out/thesis.txt").read_text() == "mine"
    assert [path.name for path in Path().iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link():
    Path("real").mkdir()
    Path("out").symlink_to("real")
    with write_exported(Path("out")) as made:
        (made / "a").touch()
    assert Path("out").is_symlink()
    assert Path("real/a").exists()


def test_embeddings_come_into_a_new_or_an_empty_folder():
    Path("e").mkdir()
    for name in ("prompts.txt", "null.safetensors", "notes.txt"):
        Path("e", name).write_text("mine")
        with pytest.raises(ValueError, match=f"e holds {name}: give a new folder"):
            refuse_filled(Path("e"))
        assert Path("e", name).read_text() == "mine"
        Path("e", name).unlink()
    refuse_filled(Path("e"))
    refuse_filled(Path("none"))
