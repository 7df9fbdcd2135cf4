"""The recipe of the faces classifier that ships with the package (needs a file of faces).

python -m freeflow_lightning.examples.faces.classifier FACES.npz OUTPUT.safetensors
"""

import argparse

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from freeflow_lightning.examples.faces.data import (
    HELD_OUT_SAMPLES,
    Faces,
    hold_out_faces,
    read_faces,
)
from freeflow_lightning.metrics.faces import ATTRIBUTES, faces_network, read_logits
from freeflow_lightning.metrics.images import from_uint8


def attribute_numbers(faces: Faces) -> Tensor:
    """Return the numbers that the classifier predicts, int64 [N, len(ATTRIBUTES)]."""
    known = list(faces.names)
    parts = [faces.attributes[:, known.index(name)] for name in ATTRIBUTES if name in known]
    glasses, hat, long_hair = (faces.labels // bit % 2 for bit in (1, 2, 4))
    return torch.stack([glasses, hat, long_hair, *parts], dim=1)


def train_faces_classifier(
    faces: Faces, *, steps: int, batch_samples: int = 256, seed: int = 0
) -> nn.Sequential:
    """Train the classifier with Adam, 2e-3 falling to 0; the caller's random state stays as it is.

    A little noise on the pictures, at most 0.1, keeps it from relying on exact colours.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = faces_network()
    numbers = attribute_numbers(faces)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(numbers), (batch_samples,), generator=generator)
        pictures = from_uint8(faces.pictures[rows])
        size = 0.1 * torch.rand(batch_samples, 1, 1, 1, generator=generator)
        logits = read_logits(
            network(pictures + size * torch.randn(pictures.shape, generator=generator))
        )
        targets = numbers[rows].unbind(dim=1)
        loss = torch.stack(
            [cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return divide_features(network).eval()


@torch.no_grad()
def divide_features(network: nn.Sequential, by: float = 16.0) -> nn.Sequential:
    """Return the same classifier with features of a size near 1: distances of those of a trained
    network are in the hundreds, and the third powers of kernel distances in the millions.
    """
    before, last = network[-3], network[-1]
    assert isinstance(before, nn.Linear)
    assert isinstance(last, nn.Linear)
    before.weight.div_(by)
    before.bias.div_(by)
    last.weight.mul_(by)
    return network


@torch.no_grad()
def accuracies(network: nn.Module, faces: Faces) -> dict[str, float]:
    """Fraction of faces that get their own value, by attribute."""
    logits = read_logits(network(from_uint8(faces.pictures)))
    seen = torch.stack([each.argmax(dim=1) for each in logits], dim=1)
    shares = (seen == attribute_numbers(faces)).double().mean(dim=0)
    return dict(zip(ATTRIBUTES, shares.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the classifier whose features measure generated faces."
    )
    parser.add_argument("faces", help="file that notebooks/tools/faces/rasterize.py wrote")
    parser.add_argument("output", help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the order of summation, and so the weights, depend on it
    training, held_out = hold_out_faces(read_faces(options.faces), HELD_OUT_SAMPLES)
    network = train_faces_classifier(training, steps=options.steps)
    save_file(
        {name: weight.half() for name, weight in network.state_dict().items()},
        options.output,
        {"recipe": "python -m freeflow_lightning.examples.faces.classifier"},
    )
    for name, share in accuracies(network, held_out).items():
        print(f"{name}: {share:.4f} of the held-out faces")


if __name__ == "__main__":
    main()
