import pytest
import torch

from freeflow_lightning.examples.digits.classifier import (
    accuracy,
    hold_out_digits,
    load_digits_as_samples,
    train_digits_classifier,
)
from freeflow_lightning.metrics import DigitsFeatures

pytest.importorskip("sklearn")


def test_the_shipped_classifier_knows_digits_it_was_not_trained_on():
    _, held_out = hold_out_digits(load_digits_as_samples())
    assert accuracy(DigitsFeatures().network, held_out) > 0.95


def test_the_split_is_a_partition():
    digits = load_digits_as_samples()
    training, held_out = hold_out_digits(digits)
    assert (len(training.labels), len(held_out.labels)) == (1197, 600)
    joined = torch.cat([training.images, held_out.images]).flatten(1).double()
    both = digits.images.flatten(1).double()
    assert torch.equal(joined.T @ joined, both.T @ both)  # the same digits in another order
    assert torch.equal(
        torch.cat([training.labels, held_out.labels]).bincount(), digits.labels.bincount()
    )


def test_digits_are_scaled_to_the_full_range():
    images = load_digits_as_samples().images
    assert images.shape == (1797, 1, 8, 8)
    assert images.unique().tolist() == [min(int(127.5 * (k / 8 - 1) + 128), 255) for k in range(17)]


def test_the_recipe_is_deterministic_and_leaves_the_random_state_alone():
    training, _ = hold_out_digits(load_digits_as_samples())
    state = torch.random.get_rng_state()
    first, second = (train_digits_classifier(training, steps=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_recipe_gives_the_shipped_weights():
    """Up to the machine's order of summation: the same classes on nearly all held-out digits."""
    training, held_out = hold_out_digits(load_digits_as_samples())
    again = DigitsFeatures()
    again.network = train_digits_classifier(training)
    shipped = DigitsFeatures().logits(held_out.images).argmax(dim=1)
    assert (again.logits(held_out.images).argmax(dim=1) == shipped).double().mean() > 0.99
