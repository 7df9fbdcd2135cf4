"""A checkpoint is there whole or not at all, also where the disk is full."""

import errno
import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.training.atomic_write import temporary_name
from freeflow_lightning.training.checkpoint_files import (
    AtomicCheckpointIO,
    CheckpointWriteError,
    write_whole_folder,
)
from tiny import fit, module

FULL = Path("/dev/full")  # every write to it finds no space left
needs_full = pytest.mark.skipif(not FULL.exists(), reason="a device that is always full is Linux's")
WHOLE = {
    "state_dict": {},
    "optimizer_states": [],
    "lr_schedulers": [],
    "loops": {},
    "weights": torch.zeros(100_000),
}


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


@needs_full
@pytest.mark.parametrize("content", [WHOLE, {"text": "x" * 10}], ids=["large", "small"])
def test_a_full_disk_is_named_with_its_space_and_the_last_good_checkpoint(tmp_path, content):
    writer, good, bad = AtomicCheckpointIO(), tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    temporary_name(bad).symlink_to(FULL)
    with pytest.raises(
        CheckpointWriteError,
        match=r"bad.ckpt: No space left .*MiB are free; no checkpoint was written",
    ):
        writer.save_checkpoint(content, bad)
    writer.save_checkpoint(WHOLE, good)
    (tmp_path / "newer.ckpt").write_text("no checkpoint")
    temporary_name(bad).symlink_to(FULL)
    with pytest.raises(
        CheckpointWriteError, match=r"good.ckpt: make room and go on with --ckpt_path .*good.ckpt$"
    ) as caught:
        writer.save_checkpoint(content, bad)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(os.listdir(tmp_path)) == ["good.ckpt", "newer.ckpt"]


@needs_full
def test_a_run_whose_disk_is_full_ends_with_the_last_checkpoint_it_could_write(
    tmp_path, monkeypatch
):
    class Fills(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            if checkpoint["global_step"] == 4:
                temporary_name(Path(path)).symlink_to(FULL)
            super().save_checkpoint(checkpoint, path, storage_options)

    keeper = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2, enable_version_counter=False)
    with pytest.raises(CheckpointWriteError, match=r"last good checkpoint is .*last\.ckpt"):
        fit(module(), keeper, enable_checkpointing=True, plugins=[Fills()])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_what_a_killed_process_left_is_swept(tmp_path):
    import socket

    left = tmp_path / f".last.ckpt.{socket.gethostname()}.999999999.tmp"
    left.write_text("half")
    AtomicCheckpointIO().save_checkpoint(WHOLE, tmp_path / "last.ckpt")
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_sharded_checkpoint_is_replaced_and_any_other_folder_is_not(tmp_path):
    writer, target = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    target.mkdir()
    for name in (".metadata", "meta.pt", "__0_0.distcp"):
        (target / name).write_text("a share")
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"last.ckpt is a folder with 'thesis.txt' in it"):
        writer.save_checkpoint(WHOLE, target)
    with (
        pytest.raises(ValueError, match=r"last.ckpt is a folder with 'thesis.txt' in it"),
        write_whole_folder(target, lambda: None, first=True),
    ):
        pass
    assert len(os.listdir(target)) == 4
    (target / "thesis.txt").unlink()
    writer.save_checkpoint(WHOLE, target)
    assert torch.load(target, weights_only=True)["weights"].shape == (100_000,)
