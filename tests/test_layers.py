"""Imports point downwards only (design.md): the files are parsed, nothing is imported."""

import ast
import sys
from pathlib import Path

import pytest

import freeflow_lightning

PACKAGE = "freeflow_lightning"
ROOT = Path(freeflow_lightning.__file__).parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MODULES = "modules"  # the files beside the folders: module.py, data.py, flow_map.py ...
MATHS = {"flow", "objectives", "nets", "teachers", "metrics", "search"}

BELOW = {  # a layer and the layers that it may import
    "flow": set(),
    "objectives": {"flow"},
    "nets": {"flow"},
    "teachers": {"flow", "nets"},
    "metrics": {"flow"},
    "export": {"flow", "nets", "teachers"},
    "search": {"flow", "metrics"},
    MODULES: MATHS | {"export"},
    "callbacks": MATHS | {MODULES},
    "commands": MATHS | {"export", MODULES, "callbacks"},
    "cli": MATHS | {MODULES, "callbacks", "commands"},
}
LIBRARIES = {
    "flow": {"torch"},
    "objectives": {"torch"},
    "metrics": {"torch", "torchmetrics", "safetensors", "numpy", "timm", "torch_fidelity"},
    "search": {"torch", "numpy", "PIL"},
}
OPTIONAL = {"sklearn", "peft"}  # imported inside functions alone: distillation runs without it
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def layer(parts):
    """The layer of a module, given the parts of its name without the package's; the package itself has none."""
    if not parts or parts == ("__init__",):
        return None
    name = parts[0].removesuffix(".py")
    return name if name in BELOW and name != MODULES else MODULES


def imports(source, parts):
    """Every module that the source imports, with names such as freeflow_lightning.flow.solver, relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([PACKAGE, *parts[: len(parts) - node.level]]) if node.level else None
            module = ".".join(filter(None, [base, node.module]))
            inside = module == PACKAGE  # `from freeflow_lightning import flow` imports a layer
            yield from (f"{module}.{alias.name}" for alias in node.names) if inside else (module,)


def violations(source, path):
    """The imports of a file that point upwards or sideways, or to a library that its layer does not know."""
    parts = path.with_suffix("").parts
    home = layer(parts)
    for name in imports(source, parts):
        top, *rest = name.split(".")
        if top == PACKAGE:
            target = layer(tuple(rest))
            if home is not None and target not in (home, None) and target not in BELOW[home]:
                yield name
        elif home in LIBRARIES and top not in LIBRARIES[home] | OPTIONAL | sys.stdlib_module_names:
            yield name


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downwards(path):
    assert list(violations((ROOT / path).read_text(), path)) == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_optional_libraries_are_imported_inside_functions(path):
    tree = ast.parse((ROOT / path).read_text())
    nested = {id(node) for outer in ast.walk(tree) if isinstance(outer, FUNCTIONS) for node in ast.walk(outer)}
    imported = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in nested)
    names = {name.split(".")[0] for node in imported for name in imports(ast.unparse(node), path.with_suffix("").parts)}
    assert not names & OPTIONAL


def test_every_folder_has_its_layer():
    folders = {path.parts[0] for path in FILES if len(path.parts) > 1}
    assert folders <= BELOW.keys(), "say in BELOW what the new folder may import"


@pytest.mark.parametrize(
    ("path", "line", "refused"),
    [
        ("flow/a.py", "import numpy", True),
        ("flow/a.py", "import math, torch.nn", False),
        ("flow/a.py", "from freeflow_lightning.objectives import prediction", True),
        ("flow/a.py", "from freeflow_lightning.flow.solver import solve", False),
        ("flow/a.py", "from ..nets import SiT", True),
        ("flow/a.py", "from .solver import solve", False),
        ("flow/a.py", "def f():\n    from freeflow_lightning import teachers", True),
        ("objectives/a.py", "from freeflow_lightning.flow import solve", False),
        ("objectives/a.py", "import lightning.pytorch", True),
        ("objectives/a.py", "from freeflow_lightning.nets import SiT", True),
        ("nets/a.py", "import timm", False),
        ("nets/a.py", "from freeflow_lightning.teachers import Teacher", True),
        ("teachers/a.py", "from freeflow_lightning.nets import SiT", False),
        ("teachers/a.py", "from freeflow_lightning.objectives import residual", True),
        ("metrics/a.py", "import lightning.pytorch", True),
        ("metrics/a.py", "import torchmetrics, safetensors.torch", False),
        ("metrics/a.py", "from freeflow_lightning.flow import check_counts", False),
        ("metrics/a.py", "from freeflow_lightning.teachers import Teacher", True),
        ("search/a.py", "from freeflow_lightning.metrics import FeatureNetwork", False),
        ("search/a.py", "from freeflow_lightning.teachers import Teacher", True),
        ("metrics/a.py", "from freeflow_lightning.search import Verifier", True),
        ("flow_map.py", "from freeflow_lightning.data import PriorDataModule", False),
        ("module.py", "from freeflow_lightning.callbacks import StudentEMA", True),
        ("callbacks/a.py", "from freeflow_lightning.module import FreeFlowModule", False),
        ("callbacks/a.py", "from freeflow_lightning.commands import sample", True),
        ("commands/a.py", "from freeflow_lightning.callbacks import StudentEMA", False),
        ("commands/a.py", "from freeflow_lightning import cli", True),
        ("cli.py", "from freeflow_lightning.commands import sample", False),
        ("module.py", "from freeflow_lightning import __version__", False),
    ],
)
def test_the_parser_sees(path, line, refused):
    assert bool(list(violations(line, Path(path)))) == refused
