import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.flow.flash_jvp import FlashAttention
from nets.random_weights import tiny_sit


class Kernel:
    """In the place of the package's kernel, which wants a GPU: what it is called with, and the right answer."""

    def __init__(self):
        self.shapes = []

    def __call__(self, q, k, v, sm_scale):
        self.shapes.append(tuple(q.shape))
        assert q.is_contiguous()
        assert all(torch.autograd.forward_ad.unpack_dual(x).tangent is not None for x in (q, k, v))
        return (q @ k.mT * sm_scale).softmax(-1) @ v


def slope_of(net, mode=None):
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, *net.sample_shape, generator=g), torch.rand(2, generator=g)
    labels = torch.tensor([0, 3])
    with torch.autograd.forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(t, torch.ones_like(t))
        if mode is None:
            out = net(x, dual, labels)
        else:
            with mode:
                out = net(x, dual, labels)
        return torch.autograd.forward_ad.unpack_dual(out)


def test_the_networks_attention_goes_to_the_kernel_and_other_widths_are_filled_up():
    net, kernel = tiny_sit(input_size=16, hidden_size=48, num_heads=2), Kernel()  # 24 a head
    right, found = slope_of(net), slope_of(net, FlashAttention(kernel))
    assert kernel.shapes == [(2, 2, 64, 32)] * 2
    torch.testing.assert_close(found.primal, right.primal, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tangent, right.tangent, rtol=1e-3, atol=1e-4)


def test_what_the_kernel_does_not_take_is_refused_with_the_alternative():
    q = torch.zeros(1, 1, 16, 16)
    for kwargs in ({}, {"is_causal": True}, {"attn_mask": torch.ones(16, 16).bool()}):
        with (
            FlashAttention(Kernel()),
            pytest.raises(ValueError, match="use ExactJVP with attention 'math'"),
        ):
            scaled_dot_product_attention(q, q, q, **kwargs)


def test_without_a_gpu_it_is_refused_and_other_words_too():
    z, delta = torch.ones(1, 1), torch.ones(1)
    with pytest.raises(ValueError, match=r"needs a CUDA device, got cpu.*\[flash\].*'math'"):
        ExactJVP(attention="flash")(lambda z, delta: z * delta[:, None], z, delta)
    with pytest.raises(ValueError, match="no gradient of its own"):
        ExactJVP(attention="flash").attached(lambda x, t, delta: x, (z, delta, delta))
    with pytest.raises(ValueError, match="expected attention 'math' or 'flash', got 'fused'"):
        ExactJVP(attention="fused")
