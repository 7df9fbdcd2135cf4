import threading

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.training import checkpoint_files
from freeflow_lightning.training.async_checkpoints import AsyncCheckpoints
from freeflow_lightning.training.checkpoint_files import CheckpointWriteError
from tiny import data, fit, module, same, weights


@pytest.fixture
def held(monkeypatch):
    """Writing waits until the event is set; what has been written is listed."""
    go, written, save = threading.Event(), [], torch.save

    def wait_and_save(content, file):
        assert go.wait(20)
        save(content, file)
        written.append(content)

    monkeypatch.setattr(checkpoint_files.torch, "save", wait_and_save)
    yield go, written
    go.set()


def test_a_file_holds_what_was_given_and_takes_its_place_before_the_older_one_goes(tmp_path, held):
    go, _ = held
    io, old, new = AsyncCheckpoints(), tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    old.write_bytes(b"older")
    weight, names = torch.ones(3), ["a"]
    io.save_checkpoint({"state_dict": {"w": weight}, "names": names}, new)
    io.remove_checkpoint(old)
    weight.zero_()  # the next steps
    names.append("b")
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["old.ckpt"]
    go.set()
    content = io.load_checkpoint(new)  # waits
    assert torch.equal(content["state_dict"]["w"], torch.ones(3))
    assert content["names"] == ["a"]
    io.teardown()
    assert [path.name for path in tmp_path.iterdir()] == ["new.ckpt"]


def test_what_went_wrong_is_raised_at_the_next_file(tmp_path):
    io = AsyncCheckpoints()
    (tmp_path / "file").touch()
    io.save_checkpoint({"state_dict": {}}, tmp_path / "file" / "a.ckpt")  # no folder
    with pytest.raises(CheckpointWriteError, match=r"a\.ckpt"):
        io.save_checkpoint({"state_dict": {}}, tmp_path / "b.ckpt")
    io.teardown()
    assert not (tmp_path / "b.ckpt").exists()


def test_a_run_is_resumed_bit_for_bit_from_what_the_thread_has_written(tmp_path):
    def train(steps, **more):
        keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2)
        options = {"enable_checkpointing": True, "plugins": [AsyncCheckpoints()]}
        m = module()
        fit(m, StudentEMA([0.9]), keep, max_steps=steps, prior=data(), **options, **more)
        return weights(m)

    whole = train(6)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6
    train(4)
    newest = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert same(train(6, ckpt_path=newest), whole)


def test_retention_by_lightnings_own_callbacks(tmp_path):
    """docs/long_runs.md: the last two, and every fourth step for good."""
    last = ModelCheckpoint(
        tmp_path, "last-{step}", monitor="step", mode="max", save_top_k=2, every_n_train_steps=1
    )
    milestones = ModelCheckpoint(tmp_path, "kept-{step}", save_top_k=-1, every_n_train_steps=4)
    options = {"enable_checkpointing": True, "plugins": [AsyncCheckpoints()]}
    fit(module(), last, milestones, max_steps=9, **options)
    names = sorted(path.stem for path in tmp_path.glob("*.ckpt"))
    assert names == ["kept-step=4", "kept-step=8", "last", "last-step=8", "last-step=9"]
