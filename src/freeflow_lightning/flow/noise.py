"""Randomness as a pure function of (seed, rank, batch counter) in training and of (seed, sample
index) elsewhere.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Generator, Tensor

_WORD = 0xFFFFFFFF


def stream_seed(counter: int, *key: int | str) -> int:
    """A 63-bit generator seed for element `counter` of the stream named by `key`.

    The low word is a bijection of the counter (murmur3's finalizer): CPU generators read no more
    than 32 bits, and so no two elements of one stream below 2^32 share their numbers.

    >>> stream_seed(0, "training", 1) != stream_seed(1, "training", 1) != stream_seed(1, "training", 2)
    True
    """
    digest = _digest(key)
    word = (counter ^ digest) & _WORD
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _WORD
    word ^= word >> 16
    return (((digest >> 32) ^ (counter >> 32)) & 0x7FFFFFFF) << 32 | word


@lru_cache(maxsize=256, typed=True)
def _digest(key: tuple[int | str, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())


def training_generator(
    seed: int, rank: int, counter: int, device: torch.device | str = "cpu"
) -> Generator:
    """The generator of one training batch: ranks and batches draw different numbers, a resumed run
    the same ones.

    Args:
        seed: the run's seed.
        rank: global rank of the process.
        counter: batches drawn by this process so far (micro-batches count).
        device: where the numbers are drawn.
    """
    return Generator(device).manual_seed(stream_seed(counter, "training", seed, rank))


def host_generator(generator: Generator) -> Generator:
    """A CPU generator with the same seed, for numbers that the host must know without waiting for
    the device; itself on a CPU.

    >>> host_generator(g := Generator().manual_seed(0)) is g
    True
    """
    if generator.device.type == "cpu":
        return generator
    return Generator().manual_seed(generator.initial_seed())


def indexed_noise(
    index: Tensor, shape: tuple[int, ...], *, seed: int, stream: str = "samples"
) -> Tensor:
    """N(0, I) noise of the samples with the given indices, float32 [len(index), *shape] on the CPU.

    Row k depends on (seed, stream, index[k]) alone: not on the batch, the number of processes or
    the device.

    >>> one, both = (indexed_noise(torch.tensor(i), (3,), seed=0) for i in ([5], [4, 5]))
    >>> torch.equal(one[0], both[1])
    True
    """
    noise, generator = torch.empty(len(index), *shape, dtype=torch.float32), Generator()
    for row, i in zip(noise, index.tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(stream_seed(i, stream, seed)))
    return noise


def indexed_generators(index: Tensor, *, seed: int, stream: str) -> Iterator[Generator]:
    """For each sample a CPU generator of its own, for what else is drawn for it (its class, its
    prompt): one, seeded anew.
    """
    generator = Generator()
    for i in index.tolist():
        yield generator.manual_seed(stream_seed(i, stream, seed))
