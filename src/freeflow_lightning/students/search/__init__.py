"""Inference-time scaling (Fig. 8): a search for better noise, by a one-step student and a verifier."""

from freeflow_lightning.students.search.algorithms import (
    ALGORITHMS,
    Algorithm,
    Beam,
    BestNoise,
    PathSearch,
    RandomSearch,
    SearchContext,
    ZeroOrderSearch,
)
from freeflow_lightning.students.search.oracle import FrechetOracle
from freeflow_lightning.students.search.verifiers import ClassScore, TargetDistance, Verifier

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
    "TargetDistance",
    "Verifier",
    "ZeroOrderSearch",
]
