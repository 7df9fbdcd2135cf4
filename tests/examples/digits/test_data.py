"""The digits as samples of a data set."""

import torch
from torch import Generator

from freeflow_lightning.examples.digits import DigitsSamples, load_digits


def test_samples_are_digits_with_their_own_labels():
    pictures, labels = load_digits()
    x, classes = DigitsSamples().draw(64, Generator().manual_seed(0))
    for picture, label in zip(x, classes, strict=True):
        same = (pictures == picture).flatten(1).all(1)
        assert label in labels[same]
    assert torch.equal(x, DigitsSamples().draw(64, Generator().manual_seed(0))[0])
    assert not torch.equal(x, DigitsSamples().draw(64, Generator().manual_seed(1))[0])
