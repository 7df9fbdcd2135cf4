"""The digits of scikit-learn: data for the embedded teacher, and the reference of the demo's
report.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from freeflow_lightning.flow import Samples
from freeflow_lightning.training.data import SettingsOnly


def load_digits() -> tuple[Tensor, Tensor]:
    """Return all 1797 pictures, float32 in [-1, 1] [1797, 1, 8, 8], and their labels 0 .. 9 [1797].

    Raises:
        ModuleNotFoundError: scikit-learn, which carries the pictures, is not installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415 (only who needs the real digits pays for it)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the real digits come with scikit-learn: pip install 'freeflow-lightning[digits]'"
        ) from error
    pictures, labels = datasets.load_digits(return_X_y=True)
    return torch.tensor(pictures, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(
        labels
    )


@dataclass(frozen=True)
class DigitsSamples(Samples):
    """The digits for `DataStates`, opened when the first one is drawn."""

    @cached_property
    def digits(self) -> tuple[Tensor, Tensor]:
        """All pictures and their labels, as `load_digits` returns them."""
        return load_digits()

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        pictures, labels = self.digits
        rows = torch.randint(len(labels), (n,), generator=generator)
        return pictures[rows], labels[rows]


class DigitsDataModule(SettingsOnly):
    """Endless-looking epochs of random digits, drawn with replacement.

    Args:
        batch_size: pictures per batch.
        length: batches per epoch.
        seed: seed of the order.
    """

    def __init__(self, batch_size: int = 256, length: int = 500, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.length = length
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        data, generator = TensorDataset(*load_digits()), Generator().manual_seed(self.seed)
        order = RandomSampler(
            data, replacement=True, num_samples=self.batch_size * self.length, generator=generator
        )
        return DataLoader(data, self.batch_size, sampler=order, generator=generator)
