"""freeflow init: a folder with a network as a teacher, its config and its weights, to be
changed.
"""

import shutil
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Literal

from freeflow_lightning.commands.run import run
from freeflow_lightning.examples.own_network import NETWORKS, files_of


def init(folder: str, network: Literal["unet", "time-channel", "score"] = "unet") -> None:
    """Write a folder to start from with a network of your own; what is in it runs at once.

    It gets a teacher's file in plain torch, with comments where your network goes, a config of
    `freeflow fit`, and the weights of a toy network of 8 x 8 pictures.

    Args:
        folder: to write to; new or empty.
        network: the kind that is most like yours: unet (any network with a module that embeds its
            time; its own convention of time and sign), time-channel (the time is a channel of the
            input), score (it predicts a score, or the noise or the data of a path with noise).
    """
    place = Path(folder)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ValueError(f"{folder} is there and not empty: give the name of a new folder")
    place.mkdir(parents=True, exist_ok=True)
    teacher, config, weights = files_of(network)
    for file in (teacher, config, weights):
        shutil.copyfile(file, place / file.name)
    width = max(len(file.name) for file in (teacher, config, weights))
    print(
        f"{folder}: {NETWORKS[network]}\n"
        f"  {teacher.name:{width}}  the teacher: put your network in the place of the toy\n"
        f"  {config.name:{width}}  the settings of its distillation\n"
        f"  {weights.name:{width}}  weights of the toy (python {teacher.name} trains them anew)\n"
        f"go on with:\n"
        f"  cd {quote(str(folder))}\n"
        f"  freeflow inspect --config {config.name}\n"
        f"  freeflow fit --config {config.name}"
    )


main = partial(run, init)
