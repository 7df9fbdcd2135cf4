"""Metrics of generated samples: distances between features, the networks that make features, and
tables of both.
"""

import importlib
from typing import TYPE_CHECKING, Any

from freeflow_lightning.metrics.faces import FacesFeatures
from freeflow_lightning.metrics.features import DigitsFeatures, FeatureNetwork, FlatFeatures
from freeflow_lightning.metrics.images import from_uint8, to_uint8
from freeflow_lightning.metrics.kernel import KernelDistance, kernel_distance
from freeflow_lightning.metrics.moments import (
    Moments,
    frechet_distance,
    mean_and_covariance,
    square_root,
    warn_of_few_samples,
)
from freeflow_lightning.metrics.scores import Score, compare_tables, inception_score
from freeflow_lightning.metrics.statistics import read_statistics, see_pictures
from freeflow_lightning.metrics.support import Coverage, coverage
from freeflow_lightning.metrics.table import FeatureTable, TableBuilder, merge_tables

if TYPE_CHECKING:
    from freeflow_lightning.metrics.dinov2 import DINOv2Features
    from freeflow_lightning.metrics.frechet import FrechetDistance
    from freeflow_lightning.metrics.inception import InceptionFeatures, InceptionFID
    from freeflow_lightning.metrics.lite0 import Lite0Features

__all__ = [
    "Coverage",
    "DINOv2Features",
    "DigitsFeatures",
    "FacesFeatures",
    "FeatureNetwork",
    "FeatureTable",
    "FlatFeatures",
    "FrechetDistance",
    "InceptionFID",
    "InceptionFeatures",
    "KernelDistance",
    "Lite0Features",
    "Moments",
    "Score",
    "TableBuilder",
    "compare_tables",
    "coverage",
    "frechet_distance",
    "from_uint8",
    "inception_score",
    "kernel_distance",
    "mean_and_covariance",
    "merge_tables",
    "read_statistics",
    "see_pictures",
    "square_root",
    "to_uint8",
    "warn_of_few_samples",
]
_SLOW = {
    "DINOv2Features": "dinov2",
    "FrechetDistance": "frechet",
    "InceptionFID": "inception",
    "InceptionFeatures": "inception",
    "Lite0Features": "lite0",
}
"""Where the names live whose modules import timm or torchmetrics, which take seconds: they are
imported when they are asked for.
"""


def __getattr__(name: str) -> Any:
    if name not in _SLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_SLOW[name]}"), name)
