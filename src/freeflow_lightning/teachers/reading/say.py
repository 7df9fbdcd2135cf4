"""What a reader says of a file: a line on standard error, from the first process of a run alone."""

import logging
import os

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Environment variables that number the processes of a run."""

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)
log.addHandler(logging.StreamHandler())


def say(line: str) -> None:
    """Log a line where this is the first process. Lightning's `rank_zero_info` would do, but those
    who open a student alone would wait seconds for it.
    """
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    if rank == "0":
        log.info(line)
