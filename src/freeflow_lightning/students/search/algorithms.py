"""The three searches of "Inference-Time Scaling for Diffusion Models" (arXiv 2501.09732, Sec. 3.2),
on a one-step student.

An algorithm sees G samples at once through a `SearchContext`. Candidates are rows: row c * G + i is
candidate c of sample i, so that [C * G, ...] viewed as [C, G, ...] has the candidates of a sample
below each other.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor

from freeflow_lightning.flow import check_counts, check_numbers, to_noisier


class SearchContext(Protocol):
    """What an algorithm may ask for. Rows are [C * G, ...]; times and delta are one number for all
    rows.
    """

    samples: int
    """G."""
    together: int
    """Candidates per sample that are worth asking for at once."""

    def noise(self, numbers: range) -> Tensor:
        """N(0, I) noise with the given numbers for each sample; number 0 is the noise of the
        unsearched sample.
        """

    def student(self, z: Tensor, delta: float = 1.0) -> Tensor:
        """f(z, delta): an evaluation of the student a row, or a few to a sample (delta = 1)."""

    def teacher(self, x: Tensor, t: float, t_next: float) -> Tensor:
        """Solve the teacher's ODE from t to t_next <= t."""

    def predict_end(self, x: Tensor, t: float) -> Tensor:
        """Return the end of the teacher's path as it looks from x at t: x + t u(x, t), one
        evaluation of u a row.
        """

    def score(self, x: Tensor) -> Tensor:
        """Return the verifier's scores of samples, [C * G]; higher is better."""


class Beam(NamedTuple):
    """Candidates, K for each sample, best first: [K * G, ...] what leads to them, what was seen of
    them, and scores [K * G].
    """

    state: Tensor
    seen: Tensor
    score: Tensor

    def best(self, samples: int, width: int) -> "Beam":
        """Return the best `width` of each sample; of equals the earlier ones."""
        order = (
            self.score.view(-1, samples).sort(dim=0, descending=True, stable=True).indices[:width]
        )
        rows = (order * samples + torch.arange(samples, device=order.device)).flatten()
        return Beam(*(part[rows] for part in self))

    def join(self, others: "Beam") -> "Beam":
        """Return a beam of these candidates and the others after them."""
        return Beam(*(torch.cat(parts) for parts in zip(self, others, strict=True)))


class BestNoise(NamedTuple):
    """The best of each sample: a state [G, ...] at a time (noise at time 1), what was scored [G,
    ...], its score [G].
    """

    time: float
    state: Tensor
    seen: Tensor
    score: Tensor


Algorithm = Callable[[Any], BestNoise]
"""Called with a `SearchContext`, or what an algorithm asks for beside."""


@final
class RandomSearch:
    """Best of N: N independent noises, the student's sample of each, the one that scores best.

    Args:
        candidates: N. The first noise is the unsearched sample's, and those of a smaller N are
            among those of a larger one.
    """

    def __init__(self, candidates: int = 64) -> None:
        check_counts(1, candidates=candidates)
        self.candidates = candidates

    def __call__(self, context: SearchContext) -> BestNoise:
        return BestNoise(1.0, *find_best_noises(context, self.candidates, 1))


@final
class ZeroOrderSearch:
    """Hill climbing from one noise: of a few noises around the pivot the best becomes the new
    pivot, if it is better.

    A neighbour is sqrt(1 - radius^2) pivot + radius n with n ~ N(0, I): of the prior's law again,
    and for small radii about radius sqrt(d) away from the pivot in d dimensions. Radius 1 forgets
    the pivot (random search).

    Args:
        candidates: student evaluations per sample in all; the first is the unsearched sample's
            noise.
        neighbours: noises around the pivot in one round; the paper found 4 enough.
        radius: of the neighbourhood, in (0, 1].
    """

    def __init__(self, candidates: int = 64, neighbours: int = 4, radius: float = 0.4) -> None:
        check_counts(1, candidates=candidates, neighbours=neighbours)
        check_numbers(0, 1, without_low=True, radius=radius)
        self.candidates = candidates
        self.neighbours = neighbours
        self.radius = radius

    def __call__(self, context: SearchContext) -> BestNoise:
        beam = find_best_noises(context, 1, 1)
        for numbers in split_range(range(1, self.candidates), self.neighbours):
            pivot = repeat_rows(beam.state, len(numbers))
            z = math.sqrt(1 - self.radius**2) * pivot + self.radius * context.noise(numbers)
            x = context.student(z)
            beam = beam.join(Beam(z, x, context.score(x))).best(context.samples, 1)
        return BestNoise(1.0, *beam)


@final
class PathSearch:
    """Search over paths: the teacher's paths are noised up and branched on their way down, the best
    branches go on.

    The student screens the starts: of N noises the best few go to f(z, 1 - start), its own state at
    time `start`. Then, until time 0: each path branches by noising from t to t + forward
    (I_{tc|t}), the teacher leads the branches back by `backward`, and the best by their predicted
    ends are kept. The best branch of the last round is found; its noised state is handed on.

    Args:
        candidates: N, noises that the student tries.
        paths: paths kept in each round, at most N.
        branches: branches of each path.
        start: time of the first branching, in (0, 1).
        forward: time that a branch is noised up by, in [0, 1 - start).
        backward: time that it is led back by, more than `forward`.
    """

    def __init__(
        self,
        candidates: int = 16,
        paths: int = 2,
        branches: int = 2,
        start: float = 0.5,
        forward: float = 0.25,
        backward: float = 0.5,
    ) -> None:
        check_counts(1, candidates=candidates, paths=paths, branches=branches)
        check_numbers(0, 1, start=start, forward=forward, backward=backward)
        if paths > candidates:
            raise ValueError(
                f"expected at most as many paths as candidates, got {paths} of {candidates}"
            )
        if not 0 < start < 1 or not 0 <= forward < min(backward, 1 - start):
            raise ValueError(
                "expected 0 < start < 1 and 0 <= forward < backward with start + forward below 1 "
                f"(where a path is forgotten), got start {start}, forward {forward}, backward "
                f"{backward}"
            )
        self.candidates = candidates
        self.paths = paths
        self.branches = branches
        self.start = start
        self.forward = forward
        self.backward = backward

    def levels(self) -> list[float]:
        """Return the times that the rounds start from, and 0.

        >>> PathSearch(start=0.5, forward=0.25, backward=0.5).levels()
        [0.5, 0.25, 0.0]
        """
        net = self.backward - self.forward
        rounds = math.ceil(self.start / net - 1e-9)
        return [self.start - k * net for k in range(rounds)] + [0.0]

    def __call__(self, context: SearchContext) -> BestNoise:
        x = context.student(
            find_best_noises(context, self.candidates, self.paths).state, 1 - self.start
        )
        number = self.candidates
        for t, t_next in pairwise(self.levels()):
            top = t + self.forward
            numbers = range(number, number + self.paths * self.branches)
            number = numbers.stop
            low = repeat_rows(x, self.branches)
            before, after = (torch.full((len(low),), time, device=low.device) for time in (t, top))
            noised, _ = to_noisier(low, context.noise(numbers), before, after)
            low = context.teacher(noised, top, t_next)
            seen = low if t_next == 0 else context.predict_end(low, t_next)
            score = context.score(seen)
            x = Beam(low, seen, score).best(context.samples, self.paths).state
            found = BestNoise(top, *Beam(noised, seen, score).best(context.samples, 1))
        return found


def find_best_noises(context: SearchContext, candidates: int, width: int) -> Beam:
    """Find the best `width` of the first `candidates` noises, by the score of the student's
    samples.
    """
    beam: Beam | None = None
    for numbers in split_range(range(candidates), context.together):
        z = context.noise(numbers)
        x = context.student(z)
        tried = Beam(z, x, context.score(x))
        beam = (tried if beam is None else beam.join(tried)).best(context.samples, width)
    assert beam is not None  # there is at least one candidate
    return beam


def split_range(numbers: range, size: int) -> Iterator[range]:
    """Parts of at most `size`.

    >>> list(split_range(range(1, 6), 2))
    [range(1, 3), range(3, 5), range(5, 6)]
    """
    return (numbers[k : k + size] for k in range(0, len(numbers), size))


def repeat_rows(x: Tensor, count: int) -> Tensor:
    """Repeat rows [C * G, ...] `count` times, to [count * C * G, ...]."""
    return x.repeat(count, *[1] * (x.ndim - 1))
