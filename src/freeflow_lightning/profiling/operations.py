"""Floating-point operations by kernel: torch's table, and the attention of CPUs, which torch before
2.15 does not count.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
SAME_COUNT = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
}
"""Kernels of CPUs, and those of GPUs that take the same operations for the same first arguments."""


def count_as(kernel: Any) -> Callable[..., int]:
    """Return the count of a kernel in torch's table, as FlopCounterMode's custom_mapping takes
    it.
    """

    def count(*args: Any, **kwargs: Any) -> int:
        operations: int = flop_registry[kernel](*args, **kwargs)
        return operations

    count._get_raw = True  # type: ignore[attr-defined]  # called with tensors, not with their shapes
    return count


MISSING = {
    kernel: count_as(other) for kernel, other in SAME_COUNT.items() if kernel not in flop_registry
}
"""What torch's own table lacks."""

OPERATIONS = MISSING | flop_registry
"""Kernel: function of its arguments and `out_val` to its operations; a multiply-add counts two."""
