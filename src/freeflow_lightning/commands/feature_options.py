"""Options of verbs that see samples with a feature network."""

from dataclasses import dataclass

from freeflow_lightning.commands.run import Options
from freeflow_lightning.evaluation.pick_features import Name
from freeflow_lightning.metrics import FeatureNetwork


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(Options):
    """what samples are seen with

    Args:
        features: auto, faces, digits, lite0, flat (the plain numbers), inception, dinov2, or a
            class_path of your own FeatureNetwork.
        weights: the file of Inception's or DINOv2's weights.
    """

    features: Name | FeatureNetwork = "auto"
    weights: str | None = None
