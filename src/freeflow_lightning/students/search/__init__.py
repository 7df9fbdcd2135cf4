"""Inference-time scaling (Fig. 8): a search for better noise, by a one-step student and a
verifier.
"""

from collections.abc import Callable

from freeflow_lightning.students.search.algorithms import (
    Algorithm,
    Beam,
    BestNoise,
    PathSearch,
    RandomSearch,
    SearchContext,
    ZeroOrderSearch,
)
from freeflow_lightning.students.search.oracle import FrechetOracle
from freeflow_lightning.students.search.steering import Steering, SteeringContext
from freeflow_lightning.students.search.verifiers import ClassScore, TargetDistance, Verifier

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "random": RandomSearch,
    "zero_order": ZeroOrderSearch,
    "paths": PathSearch,
    "steer": Steering,
}

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Beam",
    "BestNoise",
    "ClassScore",
    "FrechetOracle",
    "PathSearch",
    "RandomSearch",
    "SearchContext",
    "Steering",
    "SteeringContext",
    "TargetDistance",
    "Verifier",
    "ZeroOrderSearch",
]
