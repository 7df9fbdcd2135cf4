"""Feature networks: what they are, and those for where Inception has nothing to say: points, and
digits of 8 x 8 pixels.
"""

from abc import ABC, abstractmethod
from importlib.resources import files

from safetensors.torch import load
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts
from freeflow_lightning.metrics.images import from_uint8


class FeatureNetwork(nn.Module, ABC):
    """Samples to the numbers that a metric compares. For one of your own: set `num_features`, write
    `forward`.
    """

    num_features: int
    """Width d of `forward`'s output."""
    version: str = ""
    """What the features depend on beside class and weights, for example the version of a library
    that resizes.
    """
    num_classes: int = 0
    """Classes of the teacher that "logits" of `outputs` tells apart, in its order; 0 if they are
    none.
    """
    class_names: tuple[str, ...] = ()
    """What those classes are called, for captions."""
    note: str = ""
    """What a reader of its distances must know, for example what they cannot be compared with."""

    @abstractmethod
    def forward(self, samples: Tensor) -> Tensor:
        """uint8 pictures [B, C, H, W] (or the samples themselves, [B, ...], where they are no
        pictures) to [B, d].
        """

    def outputs(self, samples: Tensor) -> dict[str, Tensor]:
        """ "features", the output of `forward`, and what else the network sees: "spatial" [B, d'],
        "logits" [B, classes], "modes" (the number of a sample's mode, int64 [B]).
        """
        return {"features": self(samples)}

    def see(self, samples: Tensor) -> dict[str, Tensor]:
        """Return `outputs`, checked.

        Raises:
            ValueError: a network of `num_classes` whose "logits" are not of so many.
        """
        outputs = self.outputs(samples)
        logits = outputs.get("logits")
        if self.num_classes and (logits is None or logits.shape[1:] != (self.num_classes,)):
            got = "none" if logits is None else f"shape {list(logits.shape)}"
            raise ValueError(
                f'expected "logits" [B, {self.num_classes}] in the outputs of '
                f"{type(self).__name__}, whose num_classes says so, got {got}: return them, or "
                "leave num_classes at 0"
            )
        return outputs

    def classifies(self, num_classes: int) -> bool:
        """Return whether its "logits" tell apart the classes of a teacher that has so many."""
        return 0 < num_classes == self.num_classes


class FlatFeatures(FeatureNetwork):
    """The sample itself, flattened: for points in the plane, and for distances between pixels.

    Args:
        num_features: numbers in one sample.

    >>> import torch
    >>> FlatFeatures(2)(torch.tensor([[[0], [255]]], dtype=torch.uint8))
    tensor([[-1.,  1.]])
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        check_counts(1, num_features=num_features)
        self.num_features = num_features

    def forward(self, samples: Tensor) -> Tensor:
        """[B, ...] to [B, num_features]: uint8 images scaled to [-1, 1], floating-point samples as
        they are.
        """
        flat = (samples if samples.is_floating_point() else from_uint8(samples)).flatten(1)
        if flat.shape[1] != self.num_features:
            raise ValueError(
                f"expected samples of {self.num_features} numbers, got shape {tuple(samples.shape)}"
            )
        return flat


class DigitsFeatures(FeatureNetwork):
    """The 64 activations before the last layer of a small classifier of 8 x 8 digits; its weights
    ship with the package.

    Trained for 100 steps only (examples/digits/classifier.py): a classifier trained to the end maps
    a class to a point and then no longer sees that a sampler returns class means.

    >>> import torch
    >>> DigitsFeatures()(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape
    torch.Size([3, 64])
    """

    num_features = 64
    num_classes = 10
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        super().__init__()
        weights = load(
            (files("freeflow_lightning") / "assets" / "digits_classifier.safetensors").read_bytes()
        )
        self.network = digits_network()
        self.network.load_state_dict(weights)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images [B, 1, 8, 8] to features [B, 64]."""
        return self.network[:-1](self._scale(images))

    def logits(self, images: Tensor) -> Tensor:
        """uint8 images [B, 1, 8, 8] to the logits of the classes 0 .. 9, [B, 10]."""
        return self.network(self._scale(images))

    def outputs(self, samples: Tensor) -> dict[str, Tensor]:
        return {"features": self(samples), "logits": self.logits(samples)}

    def _scale(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (1, 8, 8):
            raise ValueError(f"expected digits of shape [B, 1, 8, 8], got {tuple(images.shape)}")
        return from_uint8(images)


def digits_network() -> nn.Sequential:
    """Return the untrained classifier, float32 [B, 1, 8, 8] in [-1, 1] to logits [B, 10]; the input
    of its last layer is 64 wide.

    >>> sum(p.numel() for p in digits_network().parameters())
    85066
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
