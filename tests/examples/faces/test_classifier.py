"""The recipe of the faces classifier: attributes in their order, the same weights for the same seed."""

import torch

from freeflow_lightning.examples.faces.classifier import (
    accuracies,
    attribute_numbers,
    divide_features,
    train_faces_classifier,
)
from freeflow_lightning.examples.faces.data import Faces
from freeflow_lightning.metrics.faces import ATTRIBUTES, faces_network

DRAWN = dict(list(ATTRIBUTES.items())[3:])
"""The attributes that a file of faces holds; the first three are the bits of the class."""


def faces(count):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    columns = [torch.randint(size, (count,), generator=generator) for size in DRAWN.values()]
    names = {name: [str(value) for value in range(size)] for name, size in DRAWN.items()}
    return Faces(pictures, torch.arange(count) % 8, torch.stack(columns, dim=1), names)


def test_numbers_stand_in_the_order_of_the_attributes():
    known = faces(16)
    numbers = attribute_numbers(known)
    assert numbers[5, :3].tolist() == [1, 0, 1]  # class 5: glasses and long hair
    assert torch.equal(numbers[:, 3:], known.attributes)


def test_the_recipe_is_a_function_of_its_seed_and_learns():
    known, state = faces(8), torch.random.get_rng_state()
    first, second = (train_faces_classifier(known, steps=40, batch_samples=8) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(
        torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert accuracies(first, known)["glasses worn"] == 1


def test_features_shrink_and_logits_stay():
    torch.manual_seed(0)
    network, x = faces_network(), torch.randn(2, 3, 16, 16)
    features, logits = network[:-1](x), network(x)
    divide_features(network, 4.0)
    torch.testing.assert_close(network[:-1](x), features / 4)
    torch.testing.assert_close(network(x), logits)
