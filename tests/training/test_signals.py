"""Runs that signals end again and again are, in the end, the run that was never broken."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

import broken_runs
import forks
from freeflow_lightning.training.checkpoint_reader import read_checkpoint_file
from freeflow_lightning.training.run_loggers import read_metrics
from recipes.test_resume import LAST, configure, run_of
from tiny import same


def break_runs(kind: str) -> dict:
    """What broken_runs.py saw; its seed is printed, and can be given as FREEFLOW_SEED."""
    seed = int(os.environ.get("FREEFLOW_SEED", random.randrange(10**6)))
    print(f"FREEFLOW_SEED={seed}")
    other_disk = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}
    said = forks.run(broken_runs.main, kind, seed, **other_disk)
    print(said)
    return json.loads(said.splitlines()[-1])


def rows(folder: Path) -> list[dict[str, float]]:
    """The figures, without what depends on the clock and on where the run was broken."""
    found = read_metrics(folder / "run/version_0/metrics.csv")
    return [{name: x for name, x in row.items() if not name.startswith("speed/")} for row in found]


def checkpoint(folder: Path) -> dict:
    return read_checkpoint_file(folder / "run/version_0/checkpoints/last.ckpt")


def assert_same_run(broken: Path, straight: Path, until: int) -> None:
    ours, theirs = checkpoint(broken), checkpoint(straight)
    assert ours["global_step"] == theirs["global_step"] == until
    for part in ("state_dict", "optimizer_states"):
        assert same(ours[part], theirs[part]), part
    (best,), (expected,) = (
        [x for x in y["callbacks"].values() if x.get("monitor") == "fid/student"]
        for y in (ours, theirs)
    )
    assert best["best_model_score"] == expected["best_model_score"]
    assert Path(best["best_model_path"]).name == Path(expected["best_model_path"]).name
    assert Path(broken / best["best_model_path"]).exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_lacks_no_validation(tmp_path):
    """SIGKILL: the figures of a step are lost only where its checkpoint was written and its line was not."""
    seen = break_runs("kill")
    assert [trial["codes"] for trial in seen["trials"]] == [[-9]] * len(seen["trials"])
    assert seen["codes"] == [0, 0]
    assert_same_run(tmp_path / "broken", tmp_path / "straight", seen["until"])
    broken, straight = rows(tmp_path / "broken"), rows(tmp_path / "straight")
    reached = {trial["step"] for trial in seen["trials"]}
    may_be_lost = lambda row: row["step"] + 1 in reached and "gradient/student" in row
    assert [row for row in straight if row in broken or not may_be_lost(row)] == broken


@pytest.mark.slow
def test_sigterm_to_either_process_and_to_both_ends_the_run_between_two_steps(tmp_path):
    """Two processes over gloo: no trial hangs, every one ends with 143 and saves its last step once."""
    seen = break_runs("terminate")
    for trial in seen["trials"]:
        assert trial["codes"] == [143, 143], trial
        assert trial["step"] > trial["before"], trial
        assert trial["saves"].count(f"last.ckpt {trial['step']}") == 1, trial
    assert seen["codes"] == [0, 0, 0, 0]
    assert_same_run(tmp_path / "broken", tmp_path / "straight", seen["until"])
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")


@pytest.mark.slow
def test_sigterm_to_sharded_processes_saves_the_last_step_in_their_folder(tmp_path):
    """Two processes of FSDP2 over gloo, each with a share of every weight."""
    seen = break_runs("terminate_sharded")
    for trial in seen["trials"]:
        assert trial["codes"] == [143, 143], trial
        assert trial["step"] > trial["before"], trial
    assert seen["codes"] == [0, 0, 0, 0]
    assert (tmp_path / "broken/run/version_0/checkpoints/last.ckpt").is_dir()
    assert_same_run(tmp_path / "broken", tmp_path / "straight", seen["until"])


@pytest.mark.slow
def test_sigterm_to_a_process_that_lightning_started_ends_the_command_with_143(tmp_path):
    """Lightning kills the first process within seconds of another one's end: it must not."""
    config = configure(tmp_path, LAST % 10**6)
    options = ["--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.max_steps", 10**6]
    process = forks.start(forks.freeflow_script, "fit", "--config", config.name, *options)
    table, until = tmp_path / "runs/mixture/version_0/metrics.csv", time.monotonic() + 120
    while not (table.exists() and table.read_text().count("\n") > 3) and time.monotonic() < until:
        time.sleep(0.05)
    (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGTERM)
    assert forks.end(process) == [143]
    told = forks.heard()[1].splitlines()[-1]
    saved = run_of(tmp_path) / "checkpoints" / "last.ckpt"
    step = torch.load(saved, weights_only=True)["global_step"]
    assert (
        told
        == f"SIGTERM: stopped after step {step}; go on with --ckpt_path {saved.relative_to(tmp_path)}"
    )
