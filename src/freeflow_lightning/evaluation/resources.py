"""Where an evaluation draws its samples, and how many at once."""

from typing import NamedTuple

import torch

from freeflow_lightning.sampling.processes import Processes


class Resources(NamedTuple):
    """What an evaluation runs on; without influence on its result.

    Args:
        batch_size: samples per network call.
        decode_batch_size: samples that a latent teacher's decoder takes at once; a whole batch if
            not given.
        device: of teacher, student and feature network.
        processes: each draws its share.
    """

    batch_size: int = 256
    decode_batch_size: int | None = None
    device: torch.device | str = "cpu"
    processes: Processes = Processes()


ONE_CPU = Resources()
"""This process alone, on the CPU."""
