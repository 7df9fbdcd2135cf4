"""A node of two dies, and later another joins: the run goes on with those that there are, at the same batch.

    python notebooks/tools/elastic_check.py OUTPUT        # two minutes on two CPU cores

Two torchrun agents on this machine stand for two nodes, one gloo process each. The second is killed with all that it has
started once a checkpoint is there; the first goes on alone; then a third takes its place. Prints how long each took, and what
the run says.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

STEPS = 10**6
"""More than it will make: it is ended when all has been seen."""
WAIT = 240
PORT = 29441
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it a node that joins later waits for an address that torch 2.15 gives once in a job."""


def settings() -> dict:
    last = {"filename": "last", "every_n_train_steps": 20, "enable_version_counter": False}
    teacher = {"means": [[2.0, 0.0], [-2.0, 0.5]], "std": 0.4, "labels": [0, 1]}
    network = {"sample_shape": [2], "hidden_size": 16, "depth": 2, "num_classes": 2}
    teachers, nets = "freeflow_lightning.teachers", "freeflow_lightning.nets"
    return {
        "model": {
            "class_path": "freeflow_lightning.FreeFlowModule",
            "init_args": {
                "teacher": {
                    "class_path": f"{teachers}.GaussianMixtureTeacher",
                    "init_args": teacher,
                },
                "network": {"class_path": f"{nets}.MLP", "init_args": network},
            },
        },
        "data": {"init_args": {"batch_size": 16, "length": 100, "global_batch_size": 16}},
        "trainer": {
            "accelerator": "cpu",
            "strategy": "ddp",
            "max_steps": STEPS,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": last,
                }
            ],
        },
    }


def start_node(folder: Path, name: str) -> subprocess.Popen:
    """A torchrun agent with a process of its own, in a session that can be killed whole."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2"]
    words += ["--nproc-per-node", "1", "--max-restarts", "5", "--rdzv-id", "elastic_check"]
    words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{PORT}"]
    words += ["--rdzv-conf", "last_call_timeout=20,keep_alive_interval=1,keep_alive_max_attempt=3"]
    words += ["-m", "freeflow_lightning.commands.main", "fit", "--config", "elastic.yaml"]
    said = (folder / f"{name}.txt").open("w")
    return subprocess.Popen(
        words,
        cwd=folder,
        env=os.environ | OWN_STORE,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_node(node: subprocess.Popen) -> None:
    """The agent and its process, which has a session of its own."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    for pid in (node.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    node.wait()


def wait_for(what: str, happened) -> None:
    start = time.perf_counter()
    while not happened():
        if time.perf_counter() - start > WAIT:
            raise SystemExit(f"waited {WAIT} s for {what}")
        time.sleep(0.2)
    print(f"{time.perf_counter() - start:5.1f} s: {what}", flush=True)


def is_store_there() -> bool:
    """A node that dies must not be the one that has the store."""
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", PORT)) == 0


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "elastic.yaml").write_text(yaml.safe_dump(settings()))
    first = start_node(folder, "first")
    nodes = [first]

    def says(name: str, words: str) -> bool:
        return words in (folder / f"{name}.txt").read_text()

    try:
        wait_for("the first node, which has torchrun's store, is there", is_store_there)
        second = start_node(folder, "second")
        nodes.append(second)
        wait_for("both train, and a checkpoint is there", lambda: any(folder.rglob("last.ckpt")))
        kill_node(second)
        alone = "going on with 1 process (it was 2): the effective batch is still 16"
        wait_for("the first goes on alone", lambda: says("first", alone))
        nodes.append(start_node(folder, "third"))
        both = "going on with 2 processes (it was 1): the effective batch is still 16"
        wait_for("a third has joined", lambda: says("first", both) or says("third", both))
    finally:
        for node in nodes:
            if node.poll() is None:
                kill_node(node)
    runs = sorted(path.name for path in folder.glob("runs/elastic/version_*"))
    print("folders of runs:", runs)
    for line in (folder / "first.txt").read_text().splitlines():
        if line.startswith(("going on", "torchrun", "changed")):
            print(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
