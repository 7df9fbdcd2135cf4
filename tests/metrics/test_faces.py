"""FacesFeatures: attributes of real faces, classes and modes, and more of a stronger corruption."""

import pytest
import torch

from freeflow_lightning.evaluation.scores import evaluate_tables
from freeflow_lightning.examples.faces import load_faces
from freeflow_lightning.metrics import FacesFeatures, FrechetDistance, TableBuilder, merge_tables
from freeflow_lightning.metrics.faces import ATTRIBUTES, MODE, NUM_MODES, class_logits


@pytest.fixture(scope="module")
def network():
    return FacesFeatures()


@pytest.fixture(scope="module")
def faces():
    return load_faces()


def test_faces_that_it_was_not_trained_on_are_recognised(network, faces):
    outputs = network.outputs(faces.pictures)
    assert (outputs["logits"].argmax(1) == faces.labels).double().mean() > 0.95
    seen = network.attributes(outputs["features"])
    for bit, name in enumerate(("glasses worn", "hat worn", "long hair")):
        assert (seen[name] == faces.labels // 2**bit % 2).double().mean() > 0.95


def test_logits_of_a_class_are_the_sum_of_those_of_its_bits():
    glasses, hat, long_hair = torch.randn(3, 4, 2)
    logits = class_logits(glasses, hat, long_hair)
    for label in range(8):
        bits = glasses[:, label % 2], hat[:, label // 2 % 2], long_hair[:, label // 4]
        torch.testing.assert_close(logits[:, label], sum(bits))


def test_modes_number_the_combinations_of_attributes(network, faces):
    outputs = network.outputs(faces.pictures)
    seen, left = network.attributes(outputs["features"]), outputs["modes"].clone()
    assert left.max() < NUM_MODES == 3840
    for name in reversed(MODE):
        assert torch.equal(left % ATTRIBUTES[name], seen[name])
        left //= ATTRIBUTES[name]


def test_an_evaluation_counts_the_modes(network, faces):
    def table(rows):
        builder = TableBuilder(network, 200)
        builder.add(torch.arange(200), faces.pictures[rows], faces.labels[rows])
        return merge_tables([builder.part()])

    few, many = table(torch.arange(200) % 8), table(torch.arange(200, 400))
    scores = evaluate_tables(few, many, None, None, num_classes=8, classifies=True).scores
    assert scores["modes"].value == 8
    assert scores["recognised"].value > 0.9


def test_stronger_corruptions_are_further_away(network, faces):
    metric = FrechetDistance(network)
    metric.update(faces.pictures[:1000], real=True)

    def distance(pictures):
        metric.reset()
        metric.update(pictures, real=False)
        return float(metric.compute())

    def noisy(std):
        noise = torch.randn(1000, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return (others.float() + std * noise).round().clamp(0, 255).to(torch.uint8)

    others, labels = faces.pictures[1000:], faces.labels[1000:]
    noise = [distance(others), *(distance(noisy(std)) for std in (10, 20, 40))]
    fewer = [distance(others), *(distance(others[labels >= k]) for k in (1, 2, 4))]
    assert noise == sorted(noise)
    assert fewer == sorted(fewer)


def test_other_pictures_are_refused(network):
    with pytest.raises(ValueError, match=r"expected faces of shape \[B, 3, 16, 16\], got"):
        network(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
