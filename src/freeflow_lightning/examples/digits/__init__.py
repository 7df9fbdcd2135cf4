"""The digits of scikit-learn: data, and the classifier that sees them."""

from freeflow_lightning.examples.digits.data import DigitsDataModule, DigitsSamples, load_digits

__all__ = ["DigitsDataModule", "DigitsSamples", "load_digits"]
