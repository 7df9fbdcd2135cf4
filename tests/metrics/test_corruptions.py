"""The metrics move the right way under known corruptions of scikit-learn's digits."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from freeflow_lightning.evaluation.scores import evaluate_tables
from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.metrics import DigitsFeatures, TableBuilder, merge_tables, to_uint8


@pytest.fixture(scope="module")
def halves():
    x, labels = load_digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, labels = x[order], labels[order]
    return (x[:898], labels[:898]), (x[898:], labels[898:])


def table(x, labels):
    builder = TableBuilder(DigitsFeatures(), len(x))
    builder.add(torch.arange(len(x)), to_uint8(x), labels)
    return merge_tables([builder.part()])


@pytest.fixture(scope="module")
def scores(halves):
    (x, labels), reference = halves
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    kept = labels < 7
    few = torch.cat([(labels == c).nonzero()[:3, 0] for c in range(10)]).repeat(30)[: len(x)]
    blurred = avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    corrupted = {
        "none": (x, labels),
        "little noise": (x + 0.15 * noise, labels),
        "much noise": (x + 0.6 * noise, labels),
        "blur": (blurred, labels),
        "dropped classes": (x[kept], labels[kept]),
        "duplicates": (x[few], labels[few]),
        "wrong classes": (x, (labels + 1) % 10),
    }
    truth = table(*reference)
    made = {
        name: evaluate_tables(table(*c), truth, None, None, num_classes=10, classifies=True)
        for name, c in corrupted.items()
    }
    return {
        name: {key: score.value for key, score in result.scores.items()}
        for name, result in made.items()
    }


@pytest.mark.parametrize("corruption", ["much noise", "blur", "dropped classes", "duplicates"])
@pytest.mark.parametrize("distance", ["fid", "kid"])
def test_every_corruption_is_further_away(scores, corruption, distance):
    assert scores[corruption][distance] > 2 * abs(scores["none"][distance]), scores[corruption]


@pytest.mark.parametrize("distance", ["fid", "kid"])
def test_more_noise_is_further_away(scores, distance):
    assert (
        scores["none"][distance] < scores["little noise"][distance] < scores["much noise"][distance]
    )


def test_noise_costs_precision(scores):
    assert scores["much noise"]["precision"] < 0.6 * scores["none"]["precision"]
    assert scores["much noise"]["density"] < 0.6 * scores["none"]["density"]


def test_dropped_classes_cost_recall_and_coverage_but_no_precision(scores):
    assert scores["dropped classes"]["recall"] < scores["none"]["recall"] - 0.15
    assert scores["dropped classes"]["coverage"] < scores["none"]["coverage"] - 0.15
    assert scores["dropped classes"]["precision"] > scores["none"]["precision"] - 0.05


def test_duplicates_cost_recall_and_coverage(scores):
    assert scores["duplicates"]["coverage"] < 0.5 * scores["none"]["coverage"]
    assert scores["duplicates"]["recall"] < 0.5 * scores["none"]["recall"]


def test_blur_and_duplicates_cost_diversity(scores):
    assert scores["none"]["diversity"] == pytest.approx(1, abs=0.05)
    assert scores["blur"]["diversity"] < 0.85
    assert scores["duplicates"]["diversity"] < 0.9


def test_wrong_classes_are_seen_by_the_classes_alone(scores):
    assert scores["wrong classes"]["fid"] == scores["none"]["fid"]
    assert scores["none"]["recognised"] > 0.95
    assert scores["wrong classes"]["recognised"] < 0.05
