"""One process at a time fills a folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from freeflow_lightning.training.folder_lock import lock_folder

HERE = Path()
HOLD = "import fcntl, os, sys; fcntl.flock(os.open('out', os.O_RDONLY), fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"


def test_a_folder_that_a_living_process_fills_is_refused_and_one_of_a_killed_process_is_free():
    Path("out").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"1\n"
    with (
        pytest.raises(ValueError, match=r"another process is writing to out: wait"),
        lock_folder(HERE / "out", "sample"),
    ):
        pass
    other.kill()
    other.communicate()
    with lock_folder(HERE / "out", "sample"):
        assert list(Path("out").iterdir()) == []


def test_a_file_system_without_locks_is_said(monkeypatch, caplog):
    def refuse(handle, kind):
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock_folder(HERE / "out", "sample"):
        assert "the output folder cannot be locked (no locks available)" in caplog.text
