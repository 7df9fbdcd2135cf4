import os
from pathlib import Path

import pytest
import torch

from freeflow_lightning.checkpoint import AtomicCheckpointIO
from freeflow_lightning.run_folder import MetricsCSV, last_checkpoint, next_version, read_metrics, version_of, versions


def touch(path: Path, when: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))
    return path


def test_versions_are_numbers_not_names(tmp_path):
    assert versions(tmp_path / "none") == []
    assert next_version(tmp_path) == 0
    for n in (2, 10, 9):
        (tmp_path / f"version_{n}").mkdir()
    (tmp_path / "version_old").mkdir()
    assert versions(tmp_path) == [2, 9, 10]
    assert next_version(tmp_path) == 11


def test_last_is_the_newest_file_of_the_newest_run_that_has_any(tmp_path):
    touch(tmp_path / "version_9/checkpoints/last.ckpt", 900)
    touch(tmp_path / "version_10/checkpoints/best.ckpt", 100)
    newest = touch(tmp_path / "version_10/checkpoints/last.ckpt", 200)
    touch(tmp_path / "version_10/checkpoints/.last.ckpt.tmp", 999)
    (tmp_path / "version_11/checkpoints").mkdir(parents=True)
    assert last_checkpoint(tmp_path) == newest
    with pytest.raises(FileNotFoundError, match=r"no run in .*none has written a checkpoint; leave it out"):
        last_checkpoint(tmp_path / "none")


def test_a_checkpoint_knows_its_run(tmp_path):
    assert version_of(tmp_path / "version_3/checkpoints/last.ckpt", tmp_path) == 3
    assert version_of(tmp_path / "other/version_3/checkpoints/last.ckpt", tmp_path) is None
    assert version_of(tmp_path / "last.ckpt", tmp_path) is None


def rows(*steps):
    return [{"step": step, "x": step / 2} for step in steps]


def write(logger, *steps):
    for row in rows(*steps):
        logger.log_metrics({"x": row["x"]}, row["step"])
        logger.save()


def test_a_resumed_table_keeps_what_was_before_the_checkpoint(tmp_path):
    write(MetricsCSV(tmp_path, "run", 0), 0, 1, 2, 3, 4)
    resumed = MetricsCSV(tmp_path, "run", 0, keep_below=3)
    write(resumed, 3)
    assert read_metrics(tmp_path / "run/version_0/metrics.csv") == rows(0, 1, 2, 3)  # 3 and 4 were after the checkpoint
    resumed.log_metrics({"new": 1.0}, 4)
    resumed.save()
    assert read_metrics(tmp_path / "run/version_0/metrics.csv") == [*rows(0, 1, 2, 3), {"step": 4, "new": 1.0}]


def test_a_new_run_of_the_same_folder_starts_an_empty_table(tmp_path):
    write(MetricsCSV(tmp_path, "run", 0), 0, 1)
    write(MetricsCSV(tmp_path, "run", 0), 7)
    assert read_metrics(tmp_path / "run/version_0/metrics.csv") == rows(7)


def test_no_table_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    """The process dies in the middle of writing: the older checkpoint stays, and the next one takes the torn file's place."""
    io, path, save = AtomicCheckpointIO(), tmp_path / "checkpoints" / "last.ckpt", torch.save
    io.save_checkpoint({"step": 1}, path)

    def killed(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in path.parent.glob("*.ckpt")] == ["last.ckpt"]
    monkeypatch.setattr(torch, "save", save)
    io.save_checkpoint({"step": 3}, path)
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert len(list(path.parent.iterdir())) == 1


def test_nothing_is_collected_on_another_disk(tmp_path, monkeypatch):
    """A move between disks is a copy, and a copy can be half done: all writing happens beside the checkpoint."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "does_not_exist"))
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 1}
