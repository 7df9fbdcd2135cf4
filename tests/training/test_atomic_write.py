"""Files that are whole or not there, and leftovers that are swept."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from freeflow_lightning.training.atomic_write import sweep, write_file, write_folder, write_json


def write_half(opened, error):
    """Write something, then fail."""
    with opened as path:
        target = path / "a" if path.is_dir() else path
        target.write_text("half")
        raise error


def test_a_failed_write_leaves_the_old_file_and_no_temporary():
    Path("a.txt").write_text("old")
    with pytest.raises(RuntimeError):
        write_half(write_file("a.txt"), RuntimeError())
    assert Path("a.txt").read_text() == "old"
    assert os.listdir() == ["a.txt"]


def test_a_full_disk_is_named_with_the_target():
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"No space left.*MiB are free.*a\.txt") as caught:
        write_half(write_file("a.txt"), error)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir() == []


@pytest.mark.parametrize("opened", [write_file, write_folder])
def test_a_limit_on_the_size_of_files_is_told_whoever_met_it(opened):
    theirs = RuntimeError("Error while serializing: I/O error: File too large (os error 27)")
    with pytest.raises(
        OSError, match=r"too large: .* are free; ulimit -f bounds .*: 'a'$"
    ) as caught:
        write_half(opened("a"), theirs)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir() == []


def test_a_folder_appears_whole_or_not_at_all():
    with write_folder("made") as path:
        (path / "a").write_text("1")
        assert not Path("made").exists()
    with pytest.raises(RuntimeError):
        write_half(write_folder("made"), RuntimeError())
    assert Path("made/a").read_text() == "1"
    with write_folder("made") as path:
        (path / "b").write_text("3")
    assert sorted(os.listdir("made")) == ["b"]
    assert os.listdir() == ["made"]


def test_numbers_that_are_not_finite_are_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json("a.json", {"fid": float("nan")})
    assert os.listdir() == []


def test_only_leftovers_of_dead_processes_and_of_the_given_names_are_swept():
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    here, alive = socket.gethostname(), os.getpid()
    gone, kept = f".a.json.{here}.{dead.stdout.strip()}.tmp", f".a.json.{here}.{alive}.tmp"
    mine, elsewhere = f".b.json.{here}.{dead.stdout.strip()}.tmp", ".a.json.elsewhere.1.tmp"
    for name in (gone, kept, mine, elsewhere, ".draft.tmp", "a.json"):
        Path(name).write_text("x")
    sweep(".", ["a.json"])
    assert sorted(os.listdir()) == sorted([kept, mine, elsewhere, ".draft.tmp", "a.json"])


def test_an_older_folder_comes_back_where_the_process_died_between_two_renames():
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    old = Path(f".made.{socket.gethostname()}.{dead.stdout.strip()}.old")
    old.mkdir()
    (old / "a").write_text("1")
    sweep(".", ["made"])
    assert Path("made/a").read_text() == "1"
    assert os.listdir() == ["made"]
