"""Runs under torchrun: the processes that it has started, and how a restarted job finds its run."""

import os
import re
from typing import NamedTuple

UNNAMED = "torchrun_none"
"""The file of jobs that torchrun was given no --rdzv-id for."""


class LaunchedProcesses(NamedTuple):
    """What torchrun has started.

    Args:
        devices: processes on each node.
        nodes: how many.
    """

    devices: int
    nodes: int


def launched_processes() -> LaunchedProcesses | None:
    """Return the processes of this job; None outside of torchrun.

    Raises:
        ValueError: nodes of different numbers of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", world // local))
    if local * nodes != world:
        raise ValueError(
            f"expected torchrun to start as many processes on each node, got {world} on {nodes} "
            f"nodes, {local} of them on this one: give every node the same --nproc-per-node"
        )
    return LaunchedProcesses(local, nodes)


def elastic_file() -> str:
    """Return the name of the empty file by which a torchrun job finds its run again; empty outside
    of torchrun.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"torchrun_{re.sub(r'[^A-Za-z0-9._-]', '_', name)}" if name else ""


def is_restarted() -> bool:
    """Return whether this job may have trained before: a process of a named job on a node that has
    joined later is told of no restart.

    Without --rdzv-id (or --standalone, which makes one up) all jobs have the same name, and only a
    restarted process knows.
    """
    has_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return elastic_file() not in ("", UNNAMED) or has_restarted
