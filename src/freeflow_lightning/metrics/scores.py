"""What one table of features says about another: every score with a confidence interval and how it
was made.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import check_counts
from freeflow_lightning.metrics.kernel import kernel_distance
from freeflow_lightning.metrics.moments import frechet_distance, mean_and_covariance, square_root
from freeflow_lightning.metrics.support import coverage
from freeflow_lightning.metrics.table import FeatureTable

GROUPS = 10
PAIRS = 512


class Score(NamedTuple):
    """A value with its 95 % interval (both ends NaN where none is known)."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @classmethod
    def around(cls, value: float, error: float) -> "Score":
        """value +- 1.96 standard errors."""
        return cls(value, value - 1.96 * error, value + 1.96 * error)

    @classmethod
    def mean(cls, values: Tensor) -> "Score":
        """Return the mean of values [n] with its standard error; NaN for none of them.

        >>> Score.mean(torch.tensor([1.0, 2.0, 3.0])).value
        2.0
        """
        n = len(values)
        if n == 0:
            return cls(float("nan"))
        error = float(values.double().std()) / n**0.5 if n > 1 else float("nan")
        return cls.around(float(values.mean()), error)

    @classmethod
    def share(cls, value: float, n: int) -> "Score":
        """Return a fraction of n, with Wilson's interval.

        >>> round(Score.share(1.0, 100).low, 3)
        0.963
        """
        square = 1.96**2 / n
        middle = value + square / 2
        half = 1.96 * (value * (1 - value) / n + square / (4 * n)) ** 0.5
        return cls(value, (middle - half) / (1 + square), (middle + half) / (1 + square))


def compare_tables(
    samples: FeatureTable, reference: FeatureTable, *, k: int = 3
) -> dict[str, Score]:
    """Return every distance that the two tables allow: fid, sfid, kid, precision, recall, density,
    coverage.

    Intervals: FID and KID by the jackknife over ten groups of samples (all samples must be rows),
    the fractions as binomial ones. They hold for other noise and the same reference.
    """
    reference_moments = reference.moments["features"]
    root = square_root(reference_moments.covariance)

    def fid(mean: Tensor, covariance: Tensor) -> float:
        return float(frechet_distance(*reference_moments, mean, covariance, root1=root))

    made = {"fid": Score(fid(*samples.moments["features"]))}
    x, y = samples.rows.get("features"), reference.rows.get("features")
    if x is not None and len(x) == samples.n >= 2 * GROUPS:
        made["fid"] = Score.around(made["fid"].value, _jackknife(x, fid))
    if "spatial" in samples.moments and "spatial" in reference.moments:
        made["sfid"] = Score(
            float(frechet_distance(*reference.moments["spatial"], *samples.moments["spatial"]))
        )
    if x is None or y is None or min(len(x), len(y)) <= k:
        return made
    made["kid"] = Score.around(*kernel_distance(x, y))
    sizes = {"precision": len(x), "recall": len(y), "density": 0, "coverage": len(y)}
    for name, share in coverage(x, y, k=k)._asdict().items():
        made[name] = Score.share(share, sizes[name]) if sizes[name] else Score(share)
    return made


def _jackknife(x: Tensor, statistic: Callable[[Tensor, Tensor], float]) -> float:
    """Standard error of a function of the moments of x [n, d]: the jackknife over ten groups, each
    left out in turn.
    """
    groups = [x[start::GROUPS].double() for start in range(GROUPS)]
    sums = [(g.sum(0), g.mT @ g) for g in groups]
    first, second = (torch.stack(s).sum(0) for s in zip(*sums, strict=True))
    values = torch.tensor(
        [
            statistic(*mean_and_covariance(first - a, second - b, len(x) - len(g)))
            for g, (a, b) in zip(groups, sums, strict=True)
        ]
    ).double()
    return float(((GROUPS - 1) / GROUPS * (values - values.mean()).square().sum()).sqrt())


def inception_score(logits: Tensor, *, split_samples: int = 5000) -> Score:
    """exp E KL(p(y | x) || p(y)), the mean over consecutive splits of 5000 as in ADM's evaluator;
    logits [n, classes].

    The samples must come in random order of their classes: sorted ones give each split few classes,
    and a low score.

    >>> round(inception_score(100 * torch.eye(10)).value, 6)
    10.0
    """
    check_counts(1, split_samples=split_samples)
    values = []
    for part in logits.double().split(split_samples):
        p = part.softmax(1)
        values.append((torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1).mean().exp())
    scores = torch.stack(values)
    if len(scores) == 1:
        return Score(float(scores))
    return Score.around(float(scores.mean()), float(scores.std()) / len(scores) ** 0.5)


def relative_error(x: Tensor, reference: Tensor, origin: Tensor | float = 0.0) -> Tensor:
    """Return |x - reference| / |reference - origin| of each sample, [B], for tensors [B, ...].

    >>> relative_error(torch.tensor([[3.0, 5.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([0.2000])
    """
    gap = (x - reference).flatten(1).norm(dim=1)
    return gap / (reference - origin).flatten(1).norm(dim=1)


def mean_distance(x: Tensor) -> float:
    """Mean distance between the first samples (512 at most) of x [n, d]; NaN for fewer than two."""
    return float(torch.pdist(x[:PAIRS].double()).mean()) if len(x) > 1 else float("nan")


def mean_distances(rows: dict[str, Tensor]) -> dict[int, float]:
    """`mean_distance` of the "features" of each class of a table's rows, by class; one entry, -1,
    where there are no "labels".
    """
    x, labels = rows["features"], rows.get("labels")
    if labels is None:
        return {-1: mean_distance(x)}
    return {int(c): mean_distance(x[labels == c]) for c in labels.unique()}


def compare_distances(ours: float, theirs: float) -> float:
    """Return ours over theirs; NaN where those of the reference are all at one place."""
    return ours / theirs if theirs != 0 else float("nan")


def measure_diversity(samples: dict[str, Tensor], reference: dict[str, Tensor]) -> Score:
    """Diversity, wherever this package says the word: the mean distance between features within a
    class over the reference's, averaged over the classes that both have; below 1, modes are lost.

    Where one side has no classes, all its samples count as one class, and the other side's too.
    NaN where no class has two samples on either side, or none spreads in the reference.

    Args:
        samples: rows of a FeatureTable, "features" [n, d] and, where known, "labels" [n].
        reference: likewise.

    >>> x = torch.tensor([[0.0], [1.0], [5.0], [7.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> measure_diversity({"features": x, "labels": labels}, {"features": 2 * x, "labels": labels}).value
    0.5
    """
    if ("labels" in samples) != ("labels" in reference):
        samples, reference = ({"features": rows["features"]} for rows in (samples, reference))
    ours, theirs = mean_distances(samples), mean_distances(reference)
    shared = sorted(ours.keys() & theirs.keys())
    ratios = torch.tensor([compare_distances(ours[c], theirs[c]) for c in shared]).double()
    return Score.mean(ratios[torch.isfinite(ratios)])


def class_distance(samples: FeatureTable, reference: FeatureTable, label: int) -> float:
    """Unbiased MMD^2 (KID's kernel) between the samples of one class; NaN for fewer than two on a
    side.

    Where d is large and a class has few samples, a Frechet distance would be all bias; this one has
    none.
    """
    x, y = (t.rows["features"][t.rows["labels"] == label] for t in (samples, reference))
    return kernel_distance(x, y).value if min(len(x), len(y)) > 1 else float("nan")
