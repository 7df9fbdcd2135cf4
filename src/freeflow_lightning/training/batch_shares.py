"""A batch of a fixed size, dealt to however many processes there are."""

from typing import NamedTuple


class BatchShares(NamedTuple):
    """What each process takes of an optimizer step.

    Args:
        size: samples at once.
        per_step: how many times.
    """

    size: int
    per_step: int


def share_batch(total: int, most: int, processes: int) -> BatchShares:
    """Equal shares of `total` samples, of at most `most` at once, in as few batches as can be.

    Raises:
        ValueError: a total that the processes do not divide.

    >>> share_batch(256, 64, 4), share_batch(256, 64, 2), share_batch(96, 20, 1)
    (BatchShares(size=64, per_step=1), BatchShares(size=64, per_step=2), BatchShares(size=16, per_step=6))
    """
    if total % processes:
        fewer = max(n for n in range(1, processes) if total % n == 0)
        raise ValueError(
            f"expected data.global_batch_size to be a multiple of the {processes} processes, got "
            f"{total}: start {fewer}, or give {total // processes * processes or processes}"
        )
    share = total // processes
    per_step = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= most)
    return BatchShares(share // per_step, per_step)
