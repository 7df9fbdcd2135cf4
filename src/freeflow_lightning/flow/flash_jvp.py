"""Attention with a fused forward-mode derivative, by the package jvp_flash_attention on a CUDA
device.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

PACKAGE = "jvp_flash_attention"
WIDTHS = (16, 32, 64, 128, 256)
"""Numbers per head that the kernel takes; others are filled up with zeros, which change nothing."""
LEAST_TOKENS = 32
Attend = Callable[..., Tensor]


def check_flash(device: torch.device) -> None:
    """Refuse a device or an installation without the kernel (Raises: ValueError)."""
    if device.type == "cuda" and find_spec(PACKAGE) is not None:
        return
    has_package = "" if find_spec(PACKAGE) is None else ", which is installed"
    raise ValueError(
        f"the flash derivative needs a CUDA device, got {device.type}, and the package {PACKAGE}"
        f"{has_package} (pip install 'freeflow-lightning[flash]'): use ExactJVP with attention "
        "'math', CentralDifference or DiscretePrediction"
    )


class FlashAttention(TorchFunctionMode):
    """Inside, scaled_dot_product_attention of dual numbers is the fused kernel's.

    Args:
        attend: the kernel, called with q, k, v [B, heads, tokens, width] and sm_scale; the
            package's if not given.
    """

    def __init__(self, attend: Attend | None = None) -> None:
        super().__init__()
        self.attend = attend or import_module(f"{PACKAGE}.jvp_attention").JVPAttn.fwd_dual

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return self._replace(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _replace(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        tokens, width = q.shape[-2:]
        is_plain = attn_mask is None and not (dropout_p or is_causal or enable_gqa)
        fits = q.ndim == 4 and tokens % 2 == 0 and tokens >= LEAST_TOKENS and width <= WIDTHS[-1]
        if not (is_plain and fits and q.shape == k.shape == v.shape):
            raise ValueError(
                "the flash derivative takes self-attention of an even number of at least "
                f"{LEAST_TOKENS} tokens without masks and dropout, got {list(q.shape)} and "
                f"{list(k.shape)}: use ExactJVP with attention 'math'"
            )
        missing = next(w for w in WIDTHS if w >= width) - width
        duals = [_as_dual(pad(x, (0, missing)).contiguous()) for x in (q, k, v)]
        factor = width**-0.5 if scale is None else scale
        return self.attend(*duals, sm_scale=factor)[..., :width]


def _as_dual(x: Tensor) -> Tensor:
    """A dual number, with a tangent of 0 where it had none: the kernel takes three."""
    primal, tangent = forward_ad.unpack_dual(x)
    return x if tangent is not None else forward_ad.make_dual(primal, torch.zeros_like(primal))
