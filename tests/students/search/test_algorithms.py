"""Each algorithm where the answer is known: the teacher is u = -x, f(z, delta) = exp(-delta) z, and scores are distances."""

import math

import pytest
import torch

from freeflow_lightning.flow import to_noisier
from freeflow_lightning.students.search import PathSearch, RandomSearch, ZeroOrderSearch

DECAY = math.exp(-1)
SAMPLES, SHAPE = 5, (2,)


class SearchContext:
    """Five samples in the plane with targets of their own; counts what it is asked for."""

    def __init__(self, together=7, level=False):
        self.samples, self.together, self.level = SAMPLES, together, level
        self.target = (
            torch.randn(SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(1)) * DECAY
        )
        self.asked, self.seen = {"student": 0, "teacher": 0, "predicted": 0, "score": 0}, []

    def noise(self, numbers):
        draws = [
            torch.randn(SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(100 + k))
            for k in numbers
        ]
        return torch.cat(draws)

    def student(self, z, delta=1.0):
        self.asked["student"] += len(z)
        self.seen.append(z)
        return math.exp(-delta) * z

    def teacher(self, x, t, t_next):
        self.asked["teacher"] += len(x)
        return math.exp(t_next - t) * x

    def predict_end(self, x, t):
        self.asked["predicted"] += len(x)
        return (1 - t) * x

    def score(self, x):
        self.asked["score"] += len(x)
        distance = (x - self.target.repeat(len(x) // SAMPLES, 1)).norm(dim=1)
        return torch.zeros_like(distance) if self.level else -distance


@pytest.mark.parametrize("together", [1, 3, 100])
def test_random_search_finds_the_nearest_of_n(together):
    context = SearchContext(together)
    found = RandomSearch(20)(context)
    z = context.noise(range(20)).view(20, SAMPLES, *SHAPE)
    best = (DECAY * z - context.target).norm(dim=2).argmin(0)
    expected = z[best, torch.arange(SAMPLES)]
    assert torch.equal(found.state, expected)
    assert found.time == 1
    torch.testing.assert_close(found.seen, DECAY * expected)
    torch.testing.assert_close(found.score, -(DECAY * expected - context.target).norm(dim=1))
    assert context.asked == {
        "student": 20 * SAMPLES,
        "teacher": 0,
        "predicted": 0,
        "score": 20 * SAMPLES,
    }


@pytest.mark.parametrize("kind", [RandomSearch, ZeroOrderSearch])
def test_more_candidates_never_score_less(kind):
    scores = torch.stack([kind(n)(SearchContext()).score for n in (1, 2, 4, 8, 16, 32, 64)])
    assert bool((scores.diff(dim=0) >= 0).all())
    assert bool((scores[-1] > scores[0]).all())


def test_zero_order_search_climbs_to_the_noise_of_the_target():
    context = SearchContext()
    found = ZeroOrderSearch(400, neighbours=4, radius=0.2)(context)
    torch.testing.assert_close(found.state, context.target / DECAY, atol=0.1, rtol=0)
    assert context.asked["student"] == 400 * SAMPLES  # also where the last round is short
    short = SearchContext()
    ZeroOrderSearch(8, neighbours=4)(short)
    assert short.asked["student"] == 8 * SAMPLES


def test_zero_order_search_stays_where_nothing_is_better_and_keeps_the_law_of_the_prior():
    context = SearchContext(level=True)
    found = ZeroOrderSearch(2001, neighbours=50, radius=0.5)(context)
    assert torch.equal(found.state, context.noise(range(1)))
    pivot = found.state.repeat(50, 1)
    step = torch.cat(context.seen[1:]).view(-1, *pivot.shape) - math.sqrt(0.75) * pivot
    assert float(step.mean()) == pytest.approx(0, abs=0.02)
    assert float(step.std()) == pytest.approx(0.5, rel=0.03)  # sqrt(1 - r^2)^2 + r^2 = 1


def test_radius_one_is_random_search():
    torch.testing.assert_close(
        ZeroOrderSearch(16, radius=1.0)(SearchContext()).state,
        RandomSearch(16)(SearchContext()).state,
    )


def test_paths_that_do_not_branch_are_the_teachers_own():
    context = SearchContext()
    search = PathSearch(12, paths=1, branches=1, start=0.6, forward=0.0, backward=0.2)
    assert search.levels() == pytest.approx([0.6, 0.4, 0.2, 0.0])
    found = search(context)
    z = RandomSearch(12)(SearchContext()).state
    assert found.time == pytest.approx(0.2)  # where the last round began
    torch.testing.assert_close(found.state, math.exp(-0.8) * z)
    torch.testing.assert_close(found.seen, DECAY * z)
    assert context.asked == {
        "student": 13 * SAMPLES,
        "teacher": 3 * SAMPLES,
        "predicted": 2 * SAMPLES,
        "score": 15 * SAMPLES,
    }


def test_the_best_branch_is_found():
    """One round: all branches of both paths, computed directly."""
    context = SearchContext()
    found = PathSearch(6, paths=2, branches=5, start=0.5, forward=0.2, backward=0.7)(context)
    z = SearchContext().noise(range(6)).view(6, SAMPLES, *SHAPE)
    first = (DECAY * z - context.target).norm(dim=2).argsort(0)[:2]
    state = math.exp(-0.5) * torch.gather(z, 0, first[..., None].expand(-1, -1, 2))
    noise = context.noise(range(6, 16)).view(5, 2, SAMPLES, 2)
    many = state.expand(5, -1, -1, -1).reshape(-1, 2)
    noised, _ = to_noisier(
        many, noise.reshape(-1, 2), torch.full((50,), 0.5), torch.full((50,), 0.7)
    )
    noised = noised.view(10, SAMPLES, 2)
    best = (math.exp(-0.7) * noised - context.target).norm(dim=2).argmin(0)
    torch.testing.assert_close(found.state, noised[best, torch.arange(SAMPLES)])
    assert found.time == pytest.approx(0.7)


def test_more_branches_come_nearer():
    few, many = (
        float(PathSearch(4, paths=2, branches=b)(SearchContext()).score.mean()) for b in (1, 32)
    )
    assert many > few + 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomSearch(0), "candidates to be an integer of at least 1, got 0"),
        (
            lambda: ZeroOrderSearch(4, radius=0.0),
            "radius to be a finite number above 0 and at most 1",
        ),
        (lambda: ZeroOrderSearch(4, neighbours=0), "neighbours to be an integer of at least 1"),
        (lambda: PathSearch(2, paths=3), "at most as many paths as candidates, got 3 of 2"),
        (lambda: PathSearch(start=0.5, forward=0.5), r"start \+ forward below 1"),
        (lambda: PathSearch(start=0.5, forward=0.3, backward=0.3), "forward < backward"),
        (lambda: PathSearch(start=1.0), "expected 0 < start < 1"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
