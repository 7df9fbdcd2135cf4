"""Where a network is."""

import itertools

import torch
from torch import nn


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the first weight or buffer; the CPU for a network without any.

    >>> device_of(nn.Linear(2, 2, device="meta")), device_of(nn.ReLU())
    (device(type='meta'), device(type='cpu'))
    """
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
