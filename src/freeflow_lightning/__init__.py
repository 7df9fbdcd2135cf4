"""Data-free distillation of flow-matching teachers into one-step flow maps, on PyTorch
Lightning.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeflow_lightning import callbacks, flow, nets, objectives, teachers
    from freeflow_lightning.commands.tasks.diagnose import diagnose
    from freeflow_lightning.commands.tasks.evaluate import evaluate
    from freeflow_lightning.commands.tasks.export import export
    from freeflow_lightning.commands.tasks.report import report
    from freeflow_lightning.commands.tasks.search import search
    from freeflow_lightning.recipes.dmd import DMDModule
    from freeflow_lightning.recipes.flow_map import FlowMapModule
    from freeflow_lightning.recipes.flow_matching import FlowMatchingModule
    from freeflow_lightning.recipes.freeflow import FreeFlowModule
    from freeflow_lightning.recipes.posterior import PosteriorModule
    from freeflow_lightning.recipes.transition import TransitionModule
    from freeflow_lightning.students.flow_map import FlowMap
    from freeflow_lightning.teachers import Teacher
    from freeflow_lightning.training.data import PriorDataModule

    __version__: str

__all__ = [
    "DMDModule",
    "FlowMap",
    "FlowMapModule",
    "FlowMatchingModule",
    "FreeFlowModule",
    "PosteriorModule",
    "PriorDataModule",
    "Teacher",
    "TransitionModule",
    "callbacks",
    "diagnose",
    "evaluate",
    "export",
    "flow",
    "nets",
    "objectives",
    "report",
    "search",
    "teachers",
]
_MODULES = {
    "DMDModule": "recipes.dmd",
    "FlowMap": "students.flow_map",
    "FlowMapModule": "recipes.flow_map",
    "FlowMatchingModule": "recipes.flow_matching",
    "FreeFlowModule": "recipes.freeflow",
    "PosteriorModule": "recipes.posterior",
    "PriorDataModule": "training.data",
    "Teacher": "teachers",
    "TransitionModule": "recipes.transition",
    "diagnose": "commands.tasks.diagnose",
    "evaluate": "commands.tasks.evaluate",
    "export": "commands.tasks.export",
    "report": "commands.tasks.report",
    "search": "commands.tasks.search",
}
"""Where a name lives. Modules are imported when they are asked for, so that `freeflow --help` does
not wait for torch.
"""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("freeflow-lightning")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    return getattr(module, name) if name in _MODULES else module


def __dir__() -> list[str]:
    return sorted(__all__)
