"""Jumps: how a student goes from noise to a sample in one step or several, with or without fresh
noise between them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow import (
    Trained,
    bridge,
    check_counts,
    check_numbers,
    check_starts,
    even_starts,
    renoise,
    stream_seed,
    to_noisier,
)
from freeflow_lightning.flow.pairs import SamplerName

SHARES: dict[str, float] = {
    "chain": 0.0,
    "renoise": 1.0,
    "gamma": 0.5,
    "kernel": 1.0,
    "transition": 0.0,
}
"""How much of each step is noised anew, where nothing else is said."""
SIDE_BY_SIDE = (1, 2, 4, 8)
"""The numbers of steps that are compared with each other."""
FlowMapOfTimes = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f(x, t, s): states [B, ...] at t to states at s, [B] each."""
DrawPosterior = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(e, x, t): inner noise and states [B, ...] at t [B] to draws of p(x0 | x_t = x), [B, ...]."""
FreshNoise = Callable[[int], Tensor]
"""Fresh N(0, I) noise [B, ...] by its number, from 0 to below `Jumps.noises`."""


@dataclass(frozen=True)
class Jumps:
    """Steps between times 1 = t_1 > ... > t_{k+1} = 0, evenly spaced where nothing else is said.

    Each step jumps below the next time s, to (1 - g) s, and noises the state up to s again (the
    kernel I_{s|(1-g)s} of App. A.1). If the map is exact, every state has its time's law for any g:

    - "chain", g = 0: x <- f(x, t, s), along the teacher's path.
    - "renoise", g = 1: x0 <- f(x, t, 0), x <- (1 - s) x0 + s n, as consistency models do.
    - "gamma": any g between them, as consistency trajectory models do.
    - "kernel": x0 ~ p(x0 | x_t = x), one draw of a Meta Flow Map, x <- (1 - s) x0 + s n.
    - "transition": x0 ~ p(x0 | x_t = x), and x moves along the line to x0 (`flow.bridge`).

    Args:
        steps: k, network evaluations per sample.
        sampler: which of them.
        noise_share: g in [0, 1], of "gamma" alone; 0.5 if not given.
        starts: t_1 to t_k, falling from 1; `at_trained_times` says them.

    Raises:
        ValueError: no steps, no such sampler, a noise share that would have no effect, or starts
            that are no such times.

    >>> Jumps(4, "gamma", 0.25).name
    '4 steps, gamma 0.25'
    """

    steps: int = 1
    sampler: SamplerName = "chain"
    noise_share: float | None = None
    starts: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_counts(1, steps=self.steps)
        if self.starts is not None:
            check_starts(self.starts)
            if len(self.starts) != self.steps:
                raise ValueError(f"expected {self.steps} start times, got {list(self.starts)}")
        if self.sampler not in tuple(SHARES):  # a list has no hash
            raise ValueError(f"expected a sampler of {', '.join(SHARES)}, got {self.sampler!r}")
        if self.noise_share is not None:
            check_numbers(0, 1, noise_share=self.noise_share)
            if self.sampler != "gamma":
                raise ValueError(
                    f"noise_share has no effect on the sampler {self.sampler!r}: leave it out, or "
                    f"choose 'gamma'"
                )

    @property
    def share(self) -> float:
        """The noise share g."""
        return SHARES[self.sampler] if self.noise_share is None else self.noise_share

    @property
    def noises(self) -> int:
        """How many fresh noises a sample takes; the inner noise of a kernel's first draw is z."""
        if self.sampler == "transition":
            return self.steps if self.steps > 1 else 0
        if self.sampler == "kernel":
            return 2 * (self.steps - 1)
        return self.steps - 1 if self.share > 0 else 0

    @property
    def name(self) -> str:
        """In words, for a table: the number of steps, and the sampler if it is no chain."""
        words = "1 step" if self.steps == 1 else f"{self.steps} steps"
        if self.steps == 1 or self.sampler == "chain":
            return words
        return f"{words}, {self.sampler}" + (f" {self.share:g}" if self.sampler == "gamma" else "")

    def facts(self) -> dict[str, Any]:
        """Return what tells these samples from one-step samples, as JSON; one step says nothing."""
        if self.steps == 1:
            return {}
        share = {"noise share": self.share} if self.sampler == "gamma" else {}
        times = {} if self.starts is None else {"start times": list(self.starts)}
        return {"steps": self.steps, "sampler": self.sampler} | share | times

    def at_trained_times(self, trained: Trained) -> "Jumps":
        """Return the same between the times that a student was trained at.

        Raises:
            ValueError: steps or a sampler that it was not trained for.
        """
        self._check_sampler(trained)
        if self.steps == 1 or self.sampler == "kernel":  # draws of posteriors start at any time
            return self
        starts = trained.starts_of(self.steps)
        if starts is None:
            assert trained.starts is not None
            known = trained.numbers(range(1, len(trained.starts) + 1))
            raise ValueError(
                f"this student was trained at the times {[round(t, 4) for t in trained.starts]} "
                f"alone: expected steps {' or '.join(map(str, known))}, got {self.steps}"
            )
        return self if starts == even_starts(self.steps) else replace(self, starts=starts)

    def _check_sampler(self, trained: Trained) -> None:
        """Refuse several steps by a sampler that the student was not trained for (ValueError)."""
        if self.steps == 1 or self.sampler in trained.pairs.samplers:
            return
        known = " or ".join(trained.pairs.samplers)
        raise ValueError(
            f"this student was trained from {trained.pairs.value} alone: expected "
            f"{f'the sampler {known}' if known else 'steps 1'}, got {self.steps} steps by "
            f"{self.sampler!r}"
            + ("" if known else " (FlowMapModule, with times that start anywhere, trains for more)")
        )

    def __call__(
        self,
        f: FlowMapOfTimes,
        z: Tensor,
        fresh: FreshNoise | None = None,
        draw: DrawPosterior | None = None,
    ) -> Tensor:
        """Return samples [B, ...] from noise z [B, ...], by f(x, t, s) with times [B].

        Args:
            f: the flow map.
            z: noise.
            fresh: the fresh noise; `fresh_noise` of z if not given.
            draw: draws of posteriors, which "kernel" and "transition" ask in the place of f.
        """
        fresh = fresh or (lambda k: fresh_noise(z, k))
        times = [*(self.starts or even_starts(self.steps)), 0.0]
        if self.sampler in WALKS and self.steps > 1:
            assert draw is not None  # a student of these pairs has it
            return WALKS[self.sampler](draw, z, times, fresh)
        x = z
        for k, (t, s) in enumerate(pairwise(times)):
            below = (1 - self.share) * s
            x = f(x, _rows_at(t, z), _rows_at(below, z))
            if below < s:
                x, _ = to_noisier(x, fresh(k), _rows_at(below, z), _rows_at(s, z))
        return x


def _by_kernel(draw: DrawPosterior, z: Tensor, times: list[float], fresh: FreshNoise) -> Tensor:
    """x0 ~ p(x0 | x_t), noised anew to the next time, until that is 0."""
    x0 = draw(z, z, _rows_at(times[0], z))
    for k, t in enumerate(times[1:-1]):
        x = renoise(x0, fresh(2 * k), _rows_at(t, z))
        x0 = draw(fresh(2 * k + 1), x, _rows_at(t, z))
    return x0


def _by_transition(draw: DrawPosterior, z: Tensor, times: list[float], fresh: FreshNoise) -> Tensor:
    """x0 ~ p(x0 | x_t), of noise that z does not know, and along the line to it."""
    x = z
    for k, (t, s) in enumerate(pairwise(times)):
        start, end = _rows_at(t, z), _rows_at(s, z)
        x = bridge(draw(fresh(k), x, start), x, start, end)
    return x


WALKS = {"kernel": _by_kernel, "transition": _by_transition}
"""Samplers that draw from posteriors."""

ONE_STEP = Jumps()
"""From noise to a sample at once."""


def _rows_at(time: float, z: Tensor) -> Tensor:
    """Return one time for every row, in float32 or wider."""
    wide = torch.promote_types(z.dtype, torch.float32)
    return torch.full((z.shape[0],), time, dtype=wide, device=z.device)


def fresh_noise(z: Tensor, step: int) -> Tensor:
    """N(0, I) noise for a step of the samples that start from z [B, ...], shaped as z.

    Row i depends on the bits of z[i] and on the step alone. So it is a function of (seed, index)
    where z is one, and does not depend on the batch, the number of processes or the device.

    >>> z = torch.tensor([[1.0], [2.0], [1.0]])
    >>> n = fresh_noise(z, 0)
    >>> bool(n[0] == n[2]), bool(n[0] == n[1]), bool(n[0] == fresh_noise(z, 1)[0])
    (True, False, False)
    """
    host = z.detach().float().cpu().contiguous()
    noise, generator = torch.empty_like(host), Generator()
    for row, start in zip(noise, host, strict=True):
        key = hashlib.blake2b(start.numpy().tobytes(), digest_size=8).hexdigest()
        row.normal_(generator=generator.manual_seed(stream_seed(step, "fresh noise", key)))
    return noise.to(z)
