"""A job of torchrun: `freeflow fit` on two processes from tiny.yaml in its folder.

The process whose rank is the victim (`none`: no one) kills itself, once, after a checkpoint. The process that launches has
no threads of its own, as one that forks must not.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from freeflow_lightning.callbacks import StudentEMA  # noqa: F401 (what the forked processes need is imported once)
from freeflow_lightning.commands import main as cli


def train(folder: str, victim: str) -> None:
    os.chdir(folder)
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if is_first and victim == os.environ["RANK"]:
        threading.Thread(target=die_after_a_checkpoint, daemon=True).start()
    sys.argv = ["freeflow", "fit", "--config", "tiny.yaml"]
    cli.main()


def die_after_a_checkpoint() -> None:
    while not list(Path("runs").rglob("last.ckpt")):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    os.kill(os.getpid(), signal.SIGKILL)


def launch(folder: str, victim: str) -> None:
    job = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=2,
        run_id=Path(folder).name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",  # torch is imported once
        monitor_interval=0.1,
    )
    elastic_launch(job, train)(folder, victim)
