"""Verifiers: what says which of two samples is better. Any callable of that form is one."""

from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from freeflow_lightning.metrics import DigitsFeatures, FeatureNetwork, InceptionFeatures, from_uint8
from freeflow_lightning.sampling.sample_files import read_picture


class Verifier(Protocol):
    """Scores samples. A plain function fits; a class of one's own can hold a network (nn.Module: it
    is moved and frozen).

    >>> def brightness(samples, condition):
    ...     return samples.float().flatten(1).mean(1)
    >>> verifier: Verifier = brightness
    """

    def __call__(self, samples: Tensor, condition: Any) -> Tensor:
        """Scores [B], higher is better, of samples [B, ...] under the condition that they were
        drawn for.

        Args:
            samples: pictures as they are written, uint8 [B, C, H, W]; states of other ranks as they
                are.
            condition: the teacher's: labels [B], a tree of tensors with the batch first (embeddings
                of prompts, not their words), or None.
        """


@final
class ClassScore(nn.Module):
    """log p(class asked for | picture) of a classifier.

    A strong classifier as the verifier makes samples typical of their class, and less diverse, as
    the number of candidates grows ("verifier hacking"): look at diversity and FID as well.

    Args:
        classifier: FeatureNetwork with logits, or any module from pictures (as Verifier's) to
            logits [B, classes] in the teacher's order; the digits' own if not given.
    """

    def __init__(self, classifier: nn.Module | None = None) -> None:
        super().__init__()
        if isinstance(classifier, InceptionFeatures):
            raise ValueError(
                "Inception's 1008 logits are in an order of their own, not ImageNet's: give "
                "another classifier"
            )
        self.classifier = DigitsFeatures() if classifier is None else classifier

    def forward(self, samples: Tensor, condition: Any) -> Tensor:
        """Scores [B], at most 0.

        Raises:
            ValueError: a classifier without logits, or labels that it does not have.
        """
        network = self.classifier
        outputs = (
            network.see(samples)
            if isinstance(network, FeatureNetwork)
            else {"logits": network(samples)}
        )
        if "logits" not in outputs:
            raise ValueError(
                f"{type(network).__name__} has features and no logits: ClassScore needs a "
                f"classifier"
            )
        logits = outputs["logits"].float()
        if not isinstance(condition, Tensor) or condition.ndim != 1:
            raise ValueError(
                "ClassScore compares with class labels, and this student has none: give another "
                "verifier"
            )
        if int(condition.max()) >= logits.shape[1]:
            raise ValueError(
                f"class {int(condition.max())} is none of the {logits.shape[1]} classes of the "
                f"verifier"
            )
        return logits.log_softmax(1).gather(1, condition[:, None])[:, 0]


@final
class TargetDistance(nn.Module):
    """Minus the root mean square distance to one target: of pixels (in [-1, 1]) or coordinates, or
    of features.

    Args:
        target: a picture file of the samples' size, or the numbers of a sample.
        features: network whose features are compared instead.
    """

    def __init__(
        self, target: str | Path | list[float], features: FeatureNetwork | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.target: Tensor
        self.register_buffer(
            "target", torch.tensor(target) if isinstance(target, list) else _picture(Path(target))
        )
        if not self.target.numel() or not bool(torch.isfinite(self.target).all()):
            raise ValueError(f"expected a target of one or more finite numbers, got {target}")

    def forward(self, samples: Tensor, condition: Any) -> Tensor:
        """Scores [B], at most 0.

        Raises:
            ValueError: a target of another size.
        """
        target = self.target[None]
        if target.numel() != samples[0].numel():
            raise ValueError(
                f"the target has {target.numel()} numbers and a sample has {samples[0].numel()}: "
                f"give one alike"
            )
        if self.features is not None:
            ours, theirs = self.features(samples), self.features(target.view(1, *samples.shape[1:]))
        else:
            ours, theirs = (_plain(x).flatten(1) for x in (samples, target))
        return -(ours - theirs).square().mean(1).sqrt()


def _plain(x: Tensor) -> Tensor:
    return from_uint8(x) if x.dtype == torch.uint8 else x


def _picture(path: Path) -> Tensor:
    """Return a picture without its opacity, uint8 [1 or 3, H, W]."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no target at {path}: expected a picture of the size of the samples"
        )
    picture = read_picture(path)
    return picture[:3] if len(picture) > 2 else picture[:1]
