"""The oracle takes what FID wants next."""

import torch

from freeflow_lightning.metrics import Moments, frechet_distance, mean_and_covariance
from freeflow_lightning.students.search import FrechetOracle


def reference(d):
    g = torch.Generator().manual_seed(3)
    a = torch.randn(d, d, generator=g, dtype=torch.float64)
    return Moments(
        torch.randn(d, generator=g, dtype=torch.float64),
        a @ a.T / d + torch.eye(d, dtype=torch.float64),
    )


def moments(f):
    f = f.double()
    return mean_and_covariance(f.sum(0), f.mT @ f, len(f))


def test_each_pick_is_the_candidate_with_the_smallest_fid():
    """Against brute force: FID of the reference's share and the picks so far with each candidate added."""
    d, weight = 3, 400
    target = reference(d)
    f = 2 * torch.randn(6, 25, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    picked = FrechetOracle(target, weight=weight, refresh=1).pick(f)
    total = weight * target.mean
    squares = weight * (target.covariance + torch.outer(target.mean, target.mean))
    agree, rank = 0, []
    for i in range(25):
        distances = []
        for x in f[:, i]:
            mean, n = (total + x) / (weight + i + 1), weight + i + 1
            covariance = (squares + torch.outer(x, x)) / n - torch.outer(mean, mean)
            distances.append(
                float(frechet_distance(mean, covariance, target.mean, target.covariance))
            )
        order = torch.tensor(distances).argsort().tolist()
        agree += order[0] == int(picked[i])
        rank.append(order.index(int(picked[i])))
        best = f[picked[i], i]
        total, squares = total + best, squares + torch.outer(best, best)
    assert agree >= 22  # a linear change is not quite the whole one
    assert max(rank) <= 1


def test_fid_falls_with_candidates_and_below_what_independent_samples_have():
    d, n = 4, 400
    target = reference(d)
    root = torch.linalg.cholesky(target.covariance)
    f = (
        target.mean
        + torch.randn(16, n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        @ root.T
        * 1.2
    )

    def fid(candidates):
        picked = f[:candidates][FrechetOracle(target).pick(f[:candidates]), torch.arange(n)]
        return float(frechet_distance(*moments(picked), *target))

    alone, *found = [fid(k) for k in (1, 2, 4, 16)]
    assert max(found) < 0.1 * alone
    exact = (
        target.mean
        + torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        @ root.T
    )
    assert max(found) < 0.5 * float(frechet_distance(*moments(exact), *target))


def test_a_pick_depends_on_those_before_it_alone():
    f = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    oracle = FrechetOracle(reference(3))
    assert torch.equal(oracle.pick(f)[:20], oracle.pick(f[:, :20]))
