"""Which checkpoint `--ckpt_path last` and a requeued job go on from."""

import os

import pytest
import torch

from damaged import flipped, record_of
from freeflow_lightning.training.resuming import (
    FoundCheckpoint,
    Origin,
    checkpoint_of_job,
    last_checkpoint,
)

WHOLE = {
    "global_step": 1,
    "state_dict": {},
    "optimizer_states": [],
    "lr_schedulers": [],
    "loops": {},
}
WEIGHTS = {"global_step": 1, "state_dict": {}, "loops": {}}


def save(path, when, content=WHOLE):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    os.utime(path, (when, when))
    return path


def test_last_is_the_newest_file_of_the_newest_run_that_has_any(tmp_path):
    save(tmp_path / "version_9/checkpoints/last.ckpt", 900)
    save(tmp_path / "version_10/checkpoints/best.ckpt", 100)
    newest = save(tmp_path / "version_10/checkpoints/best/last.ckpt", 200)
    save(tmp_path / "version_10/checkpoints/.last.ckpt.tmp", 999)
    (tmp_path / "version_11/checkpoints").mkdir(parents=True)
    assert last_checkpoint(tmp_path) == FoundCheckpoint(newest)
    with pytest.raises(
        FileNotFoundError, match=r"no run in .*none has written a checkpoint; leave it out"
    ):
        last_checkpoint(tmp_path / "none")


def test_last_passes_over_what_cannot_be_gone_on_from_and_says_why(tmp_path):
    folder = tmp_path / "version_0/checkpoints"
    good = save(folder / "last.ckpt", 100)
    save(folder / "best.ckpt", 200, WEIGHTS)
    torn = save(folder / "torn.ckpt", 300)
    torn.write_bytes(torn.read_bytes()[:-40])
    os.utime(torn, (300, 300))
    (folder / "empty.ckpt").touch()
    (folder / "sharded.ckpt").mkdir()
    found = last_checkpoint(tmp_path)
    assert found.path == good
    assert sorted(text.partition(" (")[0] for text in found.passed_over) == [
        "best.ckpt",
        "empty.ckpt",
        "sharded.ckpt",
        "torn.ckpt",
    ]
    assert "best.ckpt (weights without optimizer_states, lr_schedulers)" in found.passed_over
    assert (
        last_checkpoint(tmp_path, trains=False).path == folder / "best.ckpt"
    )  # to validate, weights are enough


def test_last_passes_over_a_flipped_bit(tmp_path):
    folder = tmp_path / "version_0/checkpoints"
    weights = WHOLE | {"state_dict": {"weight": torch.ones(100)}}
    good = save(folder / "older.ckpt", 100, weights)
    last = save(folder / "last.ckpt", 200, weights)
    record = record_of(last, torch.ones(100).numpy().tobytes())
    flipped(last, record)
    os.utime(last, (200, 200))
    reason = f"last.ckpt (unreadable, {record} has changed since it was written)"
    assert last_checkpoint(tmp_path) == FoundCheckpoint(good, (reason,))
    (folder / "newest.ckpt").write_bytes(good.read_bytes())
    assert last_checkpoint(tmp_path) == FoundCheckpoint(folder / "newest.ckpt")


def test_last_passes_over_a_sharded_folder_with_a_flipped_bit(tmp_path):
    folder = tmp_path / "version_0/checkpoints"
    good = save(folder / "older.ckpt", 100)
    state = {"state_dict": {"weight": torch.ones(100)}, "optimizer_0": {"moment": torch.ones(3)}}
    torch.distributed.checkpoint.save(state, checkpoint_id=folder / "last.ckpt", no_dist=True)
    save(folder / "last.ckpt/meta.pt", 200, {"lr_schedulers": [], "loops": {}, "global_step": 1})
    assert last_checkpoint(tmp_path).path == folder / "last.ckpt"
    (share,) = (folder / "last.ckpt").glob("*.distcp")
    content = bytearray(share.read_bytes())
    content[content.index(torch.ones(100).numpy().tobytes()) + 5] ^= 1
    share.write_bytes(content)
    found = last_checkpoint(tmp_path)
    assert found.path == good
    (reason,) = found.passed_over
    assert reason == f"last.ckpt (unreadable, {share.name} has changed since it was written)"


def test_a_file_of_anything_else_is_no_checkpoint(tmp_path):
    save(tmp_path / "version_0/checkpoints/last.ckpt", 100, {"global_step": 1, "loops": {}})
    with pytest.raises(ValueError, match=r"found last\.ckpt \(no state_dict\)"):
        last_checkpoint(tmp_path, trains=False)


def test_nothing_older_is_taken_where_the_newest_run_has_nothing_good(tmp_path):
    save(tmp_path / "version_0/checkpoints/last.ckpt", 100)
    save(tmp_path / "version_1/checkpoints/best.ckpt", 200, WEIGHTS)
    with pytest.raises(ValueError, match=r"found best\.ckpt \(weights without"):
        last_checkpoint(tmp_path)


def origins(tmp_path):
    """Two configs of one name, in two folders."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"seed_everything: {ord(name)}")
    return [Origin.of_file(tmp_path / name / "config.yaml", tmp_path) for name in ("a", "b")]


def test_runs_of_another_config_of_the_same_name_are_no_candidates(tmp_path):
    a, b = origins(tmp_path)
    runs = tmp_path / "runs"
    theirs = save(runs / "version_1/checkpoints/last.ckpt", 200)
    b.write(runs / "version_1")
    assert last_checkpoint(runs, b).path == theirs
    with pytest.raises(
        FileNotFoundError, match=r"are of b/config\.yaml, another experiment than a/config\.yaml"
    ):
        last_checkpoint(runs, a)
    mine = save(runs / "version_0/checkpoints/last.ckpt", 100)
    a.write(runs / "version_0")
    assert last_checkpoint(runs, a) == FoundCheckpoint(mine, ("a newer run of b/config.yaml",))


def test_an_edited_or_a_moved_config_is_the_same_experiment(tmp_path):
    a, _ = origins(tmp_path)
    runs = tmp_path / "runs"
    save(runs / "version_0/checkpoints/last.ckpt", 100)
    a.write(runs / "version_0")
    moved = tmp_path / "config.yaml"
    moved.write_text((tmp_path / "a/config.yaml").read_text())
    (tmp_path / "a/config.yaml").write_text("seed_everything: 7")
    for config in (tmp_path / "a/config.yaml", moved):
        assert last_checkpoint(runs, Origin.of_file(config, tmp_path)).path.name == "last.ckpt"


@pytest.mark.parametrize("note", [None, "", "[]", '{"config": "x"}'])
def test_a_run_without_a_readable_note_is_taken(tmp_path, note):
    a, _ = origins(tmp_path)
    path = save(tmp_path / "runs/version_0/checkpoints/last.ckpt", 100)
    if note is not None:
        (tmp_path / "runs/version_0/origin.json").write_text(note)
    assert last_checkpoint(tmp_path / "runs", a).path == path


def test_a_requeued_job_takes_its_own_newest_good_checkpoint(tmp_path, monkeypatch):
    mine = save(tmp_path / "version_0/checkpoints/requeue.ckpt", 100)
    save(tmp_path / "version_0/checkpoints/best.ckpt", 200, WEIGHTS)
    save(tmp_path / "version_1/checkpoints/last.ckpt", 300)
    (tmp_path / "version_0/slurm_77").touch()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert checkpoint_of_job(tmp_path) is None  # its first start
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    found = checkpoint_of_job(tmp_path)
    assert found is not None
    assert found.path == mine
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert checkpoint_of_job(tmp_path) is None
