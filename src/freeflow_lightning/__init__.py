"""Data-free distillation of flow-matching teachers into one-step flow maps, on PyTorch Lightning."""

from freeflow_lightning import callbacks, flow, nets, objectives, teachers
from freeflow_lightning.data import PriorDataModule
from freeflow_lightning.flow_map import FlowMap
from freeflow_lightning.flow_matching import FlowMatchingModule
from freeflow_lightning.module import FreeFlowModule
from freeflow_lightning.teachers import Teacher

__all__ = [
    "FlowMap",
    "FlowMatchingModule",
    "FreeFlowModule",
    "PriorDataModule",
    "Teacher",
    "callbacks",
    "flow",
    "nets",
    "objectives",
    "teachers",
]
