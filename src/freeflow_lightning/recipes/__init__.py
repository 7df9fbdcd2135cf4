"""Training recipes, one file a method."""

from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.correction import Correction
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.dmd import DMDModule
from freeflow_lightning.recipes.flow_map import FlowMapModule
from freeflow_lightning.recipes.flow_matching import FlowMatchingModule
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.recipes.outputs import Step
from freeflow_lightning.recipes.posterior import PosteriorModule
from freeflow_lightning.recipes.tilt import Tilt
from freeflow_lightning.recipes.transition import TransitionModule

__all__ = [
    "Correction",
    "DMDModule",
    "Distillation",
    "FlowMapModule",
    "FlowMatchingModule",
    "FreeFlowModule",
    "PosteriorModule",
    "Recipe",
    "Step",
    "Tilt",
    "TransitionModule",
]
