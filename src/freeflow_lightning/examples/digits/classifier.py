"""The recipe of the digits classifier that ships with the package (needs scikit-learn).

python -m freeflow_lightning.examples.digits.classifier OUTPUT.safetensors
"""

import argparse
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from freeflow_lightning.metrics.features import digits_network
from freeflow_lightning.metrics.images import from_uint8, to_uint8

HELD_OUT_SAMPLES = 600


class Digits(NamedTuple):
    """uint8 images [N, 1, 8, 8] and their classes, int64 [N]."""

    images: Tensor
    labels: Tensor


def load_digits_as_samples() -> Digits:
    """scikit-learn's 1797 digits (0 .. 16, scaled x / 8 - 1) in 8 bits, as samples of the digits
    teacher become.
    """
    from sklearn import datasets  # noqa: PLC0415  # an optional dependency

    bunch = datasets.load_digits()
    return Digits(to_uint8(torch.tensor(bunch.images)[:, None] / 8 - 1), torch.tensor(bunch.target))


def hold_out_digits(digits: Digits, seed: int = 0) -> tuple[Digits, Digits]:
    """Return a fixed random split into the digits to train on and 600 held out.

    >>> digits = Digits(torch.zeros(1797, 1, 8, 8, dtype=torch.uint8), torch.zeros(1797, dtype=torch.int64))
    >>> [len(part.labels) for part in hold_out_digits(digits)]
    [1197, 600]
    """
    order = torch.randperm(len(digits.labels), generator=Generator().manual_seed(seed))
    held_out, train_digits_classifier = order[:HELD_OUT_SAMPLES], order[HELD_OUT_SAMPLES:]
    return Digits(
        digits.images[train_digits_classifier], digits.labels[train_digits_classifier]
    ), Digits(digits.images[held_out], digits.labels[held_out])


def train_digits_classifier(
    digits: Digits, *, steps: int = 100, batch_samples: int = 256, seed: int = 0
) -> nn.Sequential:
    """Train the classifier with Adam at 2e-3; the caller's random state stays as it is.

    100 steps, not more: beyond them features of one class collapse, and the distance misjudges
    class means.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = digits_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    generator = Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randperm(len(digits.labels), generator=generator)[:batch_samples]
        loss = nn.functional.cross_entropy(
            network(from_uint8(digits.images[batch])), digits.labels[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, digits: Digits) -> float:
    """Fraction of digits that get their own class."""
    return (
        (network(from_uint8(digits.images)).argmax(dim=1) == digits.labels).double().mean().item()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the classifier whose features measure generated digits."
    )
    parser.add_argument("output", help="safetensors file to write")
    output = parser.parse_args().output
    torch.set_num_threads(1)  # the order of summation, and so the weights, depend on it
    training, held_out = hold_out_digits(load_digits_as_samples())
    network = train_digits_classifier(training)
    save_file(
        network.state_dict(),
        output,
        {"recipe": "python -m freeflow_lightning.examples.digits.classifier"},
    )
    print(
        f"accuracy: {accuracy(network, training):.4f} trained on, "
        f"{accuracy(network, held_out):.4f} held out"
    )


if __name__ == "__main__":
    main()
