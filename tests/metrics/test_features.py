import pytest
import torch

from freeflow_lightning.examples.digits.classifier import load_digits_as_samples
from freeflow_lightning.metrics import (
    DigitsFeatures,
    FlatFeatures,
    FrechetDistance,
    from_uint8,
    to_uint8,
)


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return load_digits_as_samples()


@pytest.fixture(scope="module")
def metric(digits):
    metric = FrechetDistance(DigitsFeatures())
    metric.update(digits.images, real=True)
    return metric


def distance(metric, images):
    metric.reset()
    metric.update(images, real=False)
    return metric.compute().item()


def noisy(digits, std):
    noise = torch.randn(digits.images.shape, generator=torch.Generator().manual_seed(0))
    return to_uint8(from_uint8(digits.images) + std * noise)


def blurred(digits, sigma):
    line = torch.exp(-torch.arange(-3, 4).square() / (2 * sigma**2))
    kernel = torch.outer(line, line)[None, None] / line.sum() ** 2
    padded = torch.nn.functional.pad(from_uint8(digits.images), (3, 3, 3, 3), mode="replicate")
    return to_uint8(torch.nn.functional.conv2d(padded, kernel))


def without_classes(digits, count):
    return digits.images[digits.labels >= count]


def towards_class_means(digits, share):
    x = from_uint8(digits.images)
    means = torch.stack([x[digits.labels == label].mean(dim=0) for label in range(10)])
    return to_uint8(torch.lerp(x, means[digits.labels], share))


@pytest.mark.parametrize(
    ("corruption", "strengths"),
    [
        (noisy, [0.05, 0.1, 0.2, 0.4]),
        (blurred, [0.35, 0.5, 0.7, 1.0]),
        (without_classes, [1, 2, 5]),
        (towards_class_means, [0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_digits_features_see_more_of_a_stronger_corruption(metric, digits, corruption, strengths):
    values = [distance(metric, digits.images)] + [
        distance(metric, corruption(digits, s)) for s in strengths
    ]
    assert values[0] < 1e-8
    assert values == sorted(values)
    assert values[1] > 1e-3


def test_digits_features_are_the_input_of_the_last_layer_and_frozen(digits):
    network, images = DigitsFeatures(), digits.images[:5]
    torch.testing.assert_close(network.network[-1](network(images)), network.logits(images))
    assert network(images).shape == (5, network.num_features)
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


def test_digits_features_refuse_other_images():
    with pytest.raises(
        ValueError, match=r"expected digits of shape \[B, 1, 8, 8\], got \(2, 3, 8, 8\)"
    ):
        DigitsFeatures()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected uint8 images, got"):
        DigitsFeatures()(torch.zeros(2, 1, 8, 8))


def test_flat_features_of_points_and_images():
    points = torch.randn(4, 2, dtype=torch.float64)  # kept in the precision they come in
    assert torch.equal(FlatFeatures(2)(points), points)
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    assert torch.equal(FlatFeatures(12)(images), images.flatten(1).float() / 127.5 - 1)
    with pytest.raises(ValueError, match=r"expected samples of 3 numbers, got shape \(4, 2\)"):
        FlatFeatures(3)(points)
