"""Weights of which every process holds a shard, whole."""

from torch import Tensor, nn


def gather_full(tensor: Tensor) -> Tensor:
    """Return a tensor as it is on one process: the shards of all processes together. Every process
    has to ask.
    """
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor  # noqa: PLC0415 (imports torch's compiler: seconds)

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
