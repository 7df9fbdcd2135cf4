"""Floating-point operations are counted whichever kernel attention takes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from freeflow_lightning.profiling.operations import MISSING


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_takes_two_products_forward_and_four_more_backward(backend):
    """Each of the products of [8, 4] and [4, 8] matrices takes 2 x 8 x 8 x 4; flash attention computes one of them twice."""
    q, k, v = (torch.randn(1, 2, 8, 4, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 8 * 8 * 4
    with FlopCounterMode(display=False, custom_mapping=MISSING) as forward, sdpa_kernel(backend):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with FlopCounterMode(display=False, custom_mapping=MISSING) as back:
        out.sum().backward()
    assert forward.get_total_flops() == 2 * product
    assert back.get_total_flops() == (4 if backend is SDPBackend.MATH else 5) * product
