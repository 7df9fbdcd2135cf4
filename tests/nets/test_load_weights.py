"""Weights are loaded as what they are, or refused."""

import pytest
import torch
from torch import nn

from freeflow_lightning.nets.load_weights import load_weights


def state(**changed):
    return nn.BatchNorm1d(2).state_dict() | changed


def test_another_precision_is_the_same_kind():
    network = nn.BatchNorm1d(2)
    load_weights(network, state(weight=torch.tensor([0.5, 2.0]).bfloat16()), "")
    assert network.weight.tolist() == [0.5, 2.0]
    assert network.weight.dtype == torch.float32
    load_weights(network, state(num_batches_tracked=torch.tensor(7, dtype=torch.int32)), "")
    assert int(network.num_batches_tracked) == 7


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weight": torch.tensor([1, 2])}, "weight: expected floating point numbers, got int64"),
        ({"bias": torch.tensor([True, False])}, "bias: expected floating point .* got bool: save"),
        ({"bias": torch.ones(2) * 1j}, "bias: expected floating point numbers, got complex64"),
        ({"num_batches_tracked": torch.tensor(1.5)}, "expected integers, got float32"),
        (
            {name: torch.ones(2, dtype=torch.uint8) for name in ("weight", "bias")},
            r"got uint8 \(and 1 more\)",
        ),
    ],
)
def test_another_kind_of_number_is_refused(changed, words):
    with pytest.raises(ValueError, match=f"the file does not fit: .*{words}"):
        load_weights(nn.BatchNorm1d(2), state(**changed), "the file does not fit")
