"""What is minimised: residuals of plain callables, and their balance (imports flow only)."""

from freeflow_lightning.objectives.auxiliary import auxiliary
from freeflow_lightning.objectives.balance import (
    ByDuration,
    ByGuidance,
    Decay,
    Normalise,
    Unweighted,
    Weight,
    adaptive_lambda,
    decay,
    equalise,
    normalise,
    split_batch,
    weigh_by_duration,
)
from freeflow_lightning.objectives.correction import correction
from freeflow_lightning.objectives.endpoint import Endpoint
from freeflow_lightning.objectives.eulerian import Consistency, DiscreteEulerian, Eulerian
from freeflow_lightning.objectives.lagrangian import DiscreteLagrangian, Lagrangian
from freeflow_lightning.objectives.map_objective import MapObjective, anchor
from freeflow_lightning.objectives.prediction import (
    ContinuousPrediction,
    DiscretePrediction,
    Prediction,
    in_confident_region,
    prediction,
)
from freeflow_lightning.objectives.residual import Residual, residual
from freeflow_lightning.objectives.score_weight import (
    ConstantWeight,
    DMDWeight,
    KLWeight,
    ScoreWeight,
)
from freeflow_lightning.objectives.semigroup import Semigroup

__all__ = [
    "ByDuration",
    "ByGuidance",
    "Consistency",
    "ConstantWeight",
    "ContinuousPrediction",
    "DMDWeight",
    "Decay",
    "DiscreteEulerian",
    "DiscreteLagrangian",
    "DiscretePrediction",
    "Endpoint",
    "Eulerian",
    "KLWeight",
    "Lagrangian",
    "MapObjective",
    "Normalise",
    "Prediction",
    "Residual",
    "ScoreWeight",
    "Semigroup",
    "Unweighted",
    "Weight",
    "adaptive_lambda",
    "anchor",
    "auxiliary",
    "correction",
    "decay",
    "equalise",
    "in_confident_region",
    "normalise",
    "prediction",
    "residual",
    "split_batch",
    "weigh_by_duration",
]
