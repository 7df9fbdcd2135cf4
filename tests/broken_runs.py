"""Runs that are ended by signals again and again, and go on each time.

Every start is a fork of this process, which has imported everything: a second instead of ten.
"""

import json
import os
import random
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.callbacks import PeriodicFID, StudentEMA
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO
from freeflow_lightning.training.checkpoint_folder import read_meta
from freeflow_lightning.training.resuming import newest_good
from freeflow_lightning.training.run_loggers import MetricsCSV
from freeflow_lightning.training.strategies import FSDP2
from freeflow_lightning.training.unfinished_validation import is_validation_pending
from tiny import data, module, trainer

PATIENCE_S = 60.0
EPOCH_S = 0.35  # ten steps, their checkpoints and the validation: a signal may come at any place
DEVICES = {"auto": 1, "ddp": 2, "sharded": 2}
CHECKPOINTS = Path("run/version_0/checkpoints")


class Saves(AtomicCheckpointIO):
    """Notes each file that it writes."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(checkpoint, path, storage_options)
        with open("saves", "a") as file:
            file.write(f"{Path(path).name} {checkpoint['global_step']}\n")


class Started(Callback):
    """Leaves a file once training is under way."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Path(f"started_{trainer.global_rank}").touch()


def train(strategy: str, max_steps: int, every: int) -> None:
    """Train up to a step, from the newest checkpoint where there is one."""
    written = list(CHECKPOINTS.glob("*.ckpt"))
    resume = newest_good(written).path if written else None
    keep_below = step_of(resume) if resume else 0
    repeats_validation = resume is not None and is_validation_pending(resume)
    run = trainer(
        devices=DEVICES[strategy],
        strategy=FSDP2(save_distributed_checkpoint=True) if strategy == "sharded" else strategy,
        max_steps=max_steps,
        enable_checkpointing=True,
        plugins=[Saves()],
        logger=MetricsCSV(".", "run", 0, keep_below, repeats_validation),
        callbacks=[
            Started(),
            StudentEMA([0.9]),
            PeriodicFID(
                FrechetDistance(FlatFeatures(2)), reference_samples=20, steps=2, cache="cache"
            ),
            ModelCheckpoint(
                CHECKPOINTS, "best-{step}", monitor="fid/student", auto_insert_metric_name=False
            ),
            ModelCheckpoint(
                CHECKPOINTS, "last", every_n_train_steps=every, enable_version_counter=False
            ),
        ],
    )
    prior = data(length=10, val_samples=40, val_batch_size=5)
    run.fit(module(student_lr=1e-3, auxiliary_lr=1e-3), prior, ckpt_path=resume)


def start(strategy: str, max_steps: int, every: int) -> list[int]:
    """Fork the processes of one run: their numbers by rank."""
    devices = DEVICES[strategy]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids = []
    for rank in range(devices):
        pid = os.fork()
        if pid == 0:
            if devices > 1:
                os.environ.update(
                    shared | {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0"}
                )
            code = 99
            try:
                train(strategy, max_steps, every)
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return pids


def end(pids: list[int]) -> list[int | None]:
    """The exit codes of processes by rank; None, and an end by force, for one that does not end."""
    codes: list[int | None] = []
    until = time.monotonic() + PATIENCE_S
    for pid in pids:
        done, status = os.waitpid(pid, os.WNOHANG)
        while not done and time.monotonic() < until:
            time.sleep(0.01)
            done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        codes.append(os.waitstatus_to_exitcode(status) if done else None)
    return codes


def wait_for_start(devices: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while (
        not all(Path(f"started_{rank}").exists() for rank in range(devices))
        and time.monotonic() < until
    ):
        time.sleep(0.005)


def step_of(path: Path) -> int:
    content = read_meta(path) if path.is_dir() else torch.load(path, weights_only=True)
    return int(content["global_step"])


def step_reached() -> int:
    return max(map(step_of, CHECKPOINTS.glob("*.ckpt")), default=0)


def break_off(
    strategy: str,
    number: signal.Signals,
    targets: list[int],
    delay: float,
    repeats: int,
    every: int,
) -> dict:
    """One run that is sent a signal some time after its first step."""
    devices = DEVICES[strategy]
    for rank in range(devices):
        Path(f"started_{rank}").unlink(missing_ok=True)
    Path("saves").unlink(missing_ok=True)
    before = step_reached()
    pids = start(strategy, 10**6, every)
    wait_for_start(devices)
    time.sleep(delay)
    for _ in range(repeats):
        for rank in targets:
            os.kill(pids[rank], number)
        time.sleep(0.002)
    codes = end(pids)
    saves = Path("saves").read_text().split("\n")[:-1] if Path("saves").exists() else []
    seen = {
        "targets": targets,
        "codes": codes,
        "before": before,
        "step": step_reached(),
        "saves": saves,
    }
    print(seen, flush=True)
    return seen


def main(kind: str, seed: int) -> None:
    """KIND is kill, terminate (two processes of ddp) or terminate_sharded (two of FSDP2).

    The last line that is printed is a table of what was seen, as JSON.
    """
    warnings.filterwarnings("ignore")
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    os.makedirs("broken")
    os.chdir("broken")
    if kind == "kill":
        strategy, every = "auto", 3
        trials = [
            break_off(strategy, signal.SIGKILL, [0], chance.uniform(0.0, EPOCH_S), 1, every)
            for _ in range(12)
        ]
    else:
        strategy, every = "sharded" if kind == "terminate_sharded" else "ddp", 10**6
        choices = [[0], [1], [0, 1]]
        trials = [
            break_off(
                strategy,
                signal.SIGTERM,
                choices[k % 3],
                chance.uniform(0.0, EPOCH_S),
                1 if k % 2 else 3,
                every,
            )
            for k in range(20 if kind == "terminate" else 4)
        ]
    until = step_reached() + 5
    codes = end(start(strategy, until, every))
    os.makedirs("../straight")
    os.chdir("../straight")
    codes += end(start(strategy, until, every))
    print(json.dumps({"trials": trials, "until": until, "codes": codes}))
