"""Metrics of generated samples: Fréchet distances, their feature networks and their references."""

from freeflow_lightning.metrics.features import DigitsFeatures, FlatFeatures
from freeflow_lightning.metrics.frechet import FrechetDistance, Moments, frechet_distance, mean_and_covariance, square_root
from freeflow_lightning.metrics.images import from_uint8, to_uint8
from freeflow_lightning.metrics.inception import InceptionFID
from freeflow_lightning.metrics.reference import load_reference_state, reference_state

__all__ = [
    "DigitsFeatures",
    "FlatFeatures",
    "FrechetDistance",
    "InceptionFID",
    "Moments",
    "frechet_distance",
    "from_uint8",
    "load_reference_state",
    "mean_and_covariance",
    "reference_state",
    "square_root",
    "to_uint8",
]
