"""Modules that hold networks which are not trained: the teacher, and the moving averages."""

from typing import Any

from torch import Tensor, nn

from freeflow_lightning.teachers import Teacher


class Frozen(nn.Module):
    """Holds a teacher that is never trained, saved, wrapped or switched to train mode, but moves
    with its owner.
    """

    net: Teacher

    def __init__(self, net: Teacher) -> None:
        super().__init__()
        object.__setattr__(self, "net", net.eval().requires_grad_(False))

    def _apply(self, fn: Any, recurse: bool = True) -> "Frozen":
        self.net._apply(fn)
        return super()._apply(fn, recurse)


class Averages(nn.ModuleDict):
    """Moving averages: they move with their owner, and stay in float32 where it becomes
    bfloat16.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> "Averages":
        def keep_precision(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(keep_precision, recurse)
