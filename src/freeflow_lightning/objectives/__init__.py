"""What is minimised: residuals of plain callables, and their balance (imports flow only)."""

from freeflow_lightning.objectives.auxiliary import auxiliary
from freeflow_lightning.objectives.balance import adaptive_lambda, decay, equalise, split
from freeflow_lightning.objectives.correction import correction
from freeflow_lightning.objectives.prediction import (
    ContinuousPrediction,
    DiscretePrediction,
    Prediction,
    in_confident_region,
    prediction,
)
from freeflow_lightning.objectives.residual import Residual, residual

__all__ = [
    "ContinuousPrediction",
    "DiscretePrediction",
    "Prediction",
    "Residual",
    "adaptive_lambda",
    "auxiliary",
    "correction",
    "decay",
    "equalise",
    "in_confident_region",
    "prediction",
    "residual",
    "split",
]
