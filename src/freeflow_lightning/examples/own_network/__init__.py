"""Networks of one's own, as `freeflow init` writes them: each file stands alone, to be changed."""

from pathlib import Path

FOLDER = Path(__file__).parent
NETWORKS = {
    "unet": "a U-Net in plain torch with its own convention of time and sign",
    "time-channel": "a network that takes the time as a channel of its input",
    "score": "a network that predicts the score of a variance-exploding path",
}
"""What `freeflow init --network` offers."""


def files_of(network: str) -> list[Path]:
    """Return the teacher's file, its config and its weights.

    >>> [path.name for path in files_of("time-channel")]
    ['my_time_channel.py', 'my_time_channel.yaml', 'my_time_channel.pt']
    """
    stem = f"my_{network.replace('-', '_')}"
    return [FOLDER / f"{stem}{suffix}" for suffix in (".py", ".yaml", ".pt")]
