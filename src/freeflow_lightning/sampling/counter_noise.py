"""Noise by counter: numbers of any samples at once, each a function of (seed, stream, index)."""

import hashlib
import math
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NoiseVersion = Literal["v1", "v2"]
"""How noise is drawn: v1 seeds a generator anew for each sample, v2 counts (Philox)."""

BLOCK = 4
"""Words of 64 bits that Philox gives for one value of its counter."""


def counter_noise(
    index: Tensor, shape: tuple[int, ...], *, seed: int, stream: str = "samples"
) -> Tensor:
    """N(0, I) noise of the samples with the given indices, float32 [len(index), *shape] on the CPU.

    Philox4x64-10 (Salmon et al., 2011) keyed by (seed, stream); sample i owns the values of the
    counter from i * blocks on, and each word gives two numbers by Box and Muller. Row k depends on
    (seed, stream, index[k], shape) alone. No number is beyond 6.8.

    >>> one, both = (counter_noise(torch.tensor(i), (3,), seed=0) for i in ([5], [4, 5]))
    >>> torch.equal(one[0], both[1])
    True
    """
    size = math.prod(shape)
    words = counter_words(index, -(-size // 2), seed=seed, stream=stream)
    halves = torch.from_numpy(words.view(np.int32)).view(len(index), -1, 2)
    uniform = halves[..., 0].to(torch.float64).add_(2**31 + 0.5).mul_(2**-32)  # above 0, up to 1
    radius = uniform.float().log_().mul_(-2).sqrt_()
    angle = halves[..., 1].to(torch.float32).mul_(math.pi * 2**-31)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return pairs.view(len(index), -1)[:, :size].reshape(len(index), *shape)


def counter_uniforms(index: Tensor, *, seed: int, stream: str) -> Tensor:
    """Return a uniform number in [0, 1) for each of the samples, float64 [len(index)].

    >>> u = counter_uniforms(torch.arange(1000), seed=0, stream="classes")
    >>> bool((u >= 0).all() and (u < 1).all()), abs(float(u.mean()) - 0.5) < 0.05
    (True, True)
    """
    words = counter_words(index, 1, seed=seed, stream=stream)[:, 0]
    return torch.from_numpy((words >> np.uint64(11)) * 2.0**-53)


def counter_words(index: Tensor, count: int, *, seed: int, stream: str) -> np.ndarray:
    """Return the first `count` words of each sample, uint64 [len(index), count]; consecutive
    samples are drawn in one call.
    """
    key = int.from_bytes(hashlib.blake2b(repr((stream, seed)).encode(), digest_size=16).digest())
    blocks = -(-count // BLOCK)
    numbers = index.tolist()
    gaps = [k for k, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1]
    runs = pairwise([0, *gaps, len(numbers)]) if numbers else ()
    found = np.empty((len(numbers), blocks * BLOCK), np.uint64)
    for start, end in runs:
        philox = np.random.Philox(key=key, counter=numbers[start] * blocks)
        found[start:end] = philox.random_raw(found[start:end].size).reshape(end - start, -1)
    return np.ascontiguousarray(found[:, :count])
