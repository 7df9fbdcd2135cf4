"""Features of the 16 x 16 faces, by a small classifier of their attributes."""

import math
from importlib.resources import files
from typing import final

import torch
from safetensors.torch import load
from torch import Tensor, nn

from freeflow_lightning.metrics.features import FeatureNetwork
from freeflow_lightning.metrics.images import from_uint8

ATTRIBUTES = {
    "glasses worn": 2,
    "hat worn": 2,
    "long hair": 2,
    "skin": 8,
    "background": 5,
    "clothing": 23,
    "clothing colour": 12,
    "mouth": 23,
    "eyes": 12,
    "hair": 45,
    "hair colour": 11,
    "hat": 11,
    "hat colour": 8,
    "glasses": 15,
    "glasses colour": 7,
    "accessories": 5,
}
"""What the classifier tells of a face, and how many values each attribute has."""
MODE = ("glasses worn", "hat worn", "long hair", "skin", "background", "clothing colour")
"""The attributes whose combinations are counted as modes: 3840 of them."""
CLASS_BITS = ("glasses worn", "hat worn", "long hair")
"""The attributes that a face's class is made of, the lowest bit first."""
NUM_MODES = math.prod(ATTRIBUTES[name] for name in MODE)


@final
class FacesFeatures(FeatureNetwork):
    """The 128 activations before the last layer of a small classifier of faces; its weights ship
    with the package.

    It tells every attribute that the faces are drawn by, so that the classes asked for and the
    combinations of attributes can be counted (examples/faces/classifier.py trains it).

    >>> FacesFeatures()(torch.zeros(3, 3, 16, 16, dtype=torch.uint8)).shape
    torch.Size([3, 128])
    """

    num_features = 128
    num_classes = 8
    class_names = (
        "short hair",
        "glasses",
        "hat",
        "hat, glasses",
        "long hair",
        "long, glasses",
        "long, hat",
        "long, hat, glasses",
    )

    def __init__(self) -> None:
        super().__init__()
        weights = files("freeflow_lightning") / "assets" / "faces_classifier.safetensors"
        self.network = faces_network()
        self.network.load_state_dict(load(weights.read_bytes()))
        self.requires_grad_(False).eval()

    def forward(self, samples: Tensor) -> Tensor:
        """uint8 faces [B, 3, 16, 16] to features [B, 128]."""
        if samples.shape[1:] != (3, 16, 16):
            raise ValueError(f"expected faces of shape [B, 3, 16, 16], got {tuple(samples.shape)}")
        return self.network[:-1](from_uint8(samples))

    def attributes(self, features: Tensor) -> dict[str, Tensor]:
        """Return the most likely value of each attribute, int64 [B], of features [B, 128]."""
        logits = read_logits(self.network[-1](features))
        return {name: each.argmax(dim=1) for name, each in zip(ATTRIBUTES, logits, strict=True)}

    def outputs(self, samples: Tensor) -> dict[str, Tensor]:
        """ "features"; "logits" of the classes [B, 8]; "modes", the number of each face's
        combination of attributes, int64 [B].
        """
        features = self(samples)
        logits = dict(zip(ATTRIBUTES, read_logits(self.network[-1](features)), strict=True))
        seen = self.attributes(features)
        modes = torch.zeros_like(seen[MODE[0]])
        for name in MODE:
            modes = modes * ATTRIBUTES[name] + seen[name]
        return {
            "features": features,
            "logits": class_logits(*(logits[name] for name in CLASS_BITS)),
            "modes": modes,
        }


def class_logits(glasses: Tensor, hat: Tensor, long_hair: Tensor) -> Tensor:
    """Logits of the classes, [B, 8], of those of its three bits, [B, 2] each: 1 for glasses, 2 for
    a hat, 4 for long hair.
    """
    return (
        long_hair[:, :, None, None] + hat[:, None, :, None] + glasses[:, None, None, :]
    ).flatten(1)


def read_logits(output: Tensor) -> tuple[Tensor, ...]:
    """Return the logits of each attribute, [B, values], of the classifier's output."""
    return output.split(list(ATTRIBUTES.values()), dim=1)


def faces_network() -> nn.Sequential:
    """Return the untrained classifier, float32 [B, 3, 16, 16] in [-1, 1] to the logits of all
    attributes; the input of its last layer is 128 wide.

    >>> sum(p.numel() for p in faces_network().parameters())
    212159
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, sum(ATTRIBUTES.values())),
    )
