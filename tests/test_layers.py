"""Imports point to the left only (docs/design.md): the files are parsed, nothing is imported."""

import ast
import functools
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import freeflow_lightning

PACKAGE = "freeflow_lightning"
ROOT = Path(freeflow_lightning.__file__).parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ORDER = (
    "flow",
    "objectives",
    "nets",
    "metrics",
    "teachers",
    "training",
    "examples",
    "recipes",
    "sampling",
    "students",
    "evaluation",
    "callbacks",
    "profiling",
    "commands",
)
"""The rooms: a file imports from its own and from those to its left."""
TASKS = ("commands", "tasks")
"""The folder of what a verb and Python both do."""
LIBRARIES = {
    "flow": {"torch"},
    "objectives": {"torch"},
    "metrics": {"torch", "torchmetrics", "safetensors", "numpy", "timm"},
}
"""The libraries that a room may import, where they are limited."""
OPTIONAL = {
    "gradio",
    "sklearn",
    "peft",
    "torch_fidelity",
}  # imported inside functions alone: distillation runs without it
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


@functools.cache
def tree_of(path):
    return ast.parse((ROOT / path).read_text())


def faults(find, files=FILES):
    """What is found in each file, where something is."""
    found = {str(path): sorted(find(path)) for path in files}
    return {path: names for path, names in found.items() if names}


def imports(tree, parts):
    """Every module or name that is imported, such as freeflow_lightning.flow.solve, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([PACKAGE, *parts[: len(parts) - node.level]]) if node.level else None
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(tree, path):
    """The imports of a file that point to the right, or to a library that its room does not know."""
    parts = path.with_suffix("").parts
    room = parts[0] if len(parts) > 1 else None
    for name in imports(tree, parts):
        top, *rest = name.split(".")
        if top == PACKAGE and room is not None:
            target = rest[0]
            if target in ORDER and ORDER.index(target) > ORDER.index(room):
                yield name
        elif room in LIBRARIES and top not in LIBRARIES[room] | OPTIONAL | sys.stdlib_module_names:
            yield name


def test_the_package_has_the_rooms_of_the_plan_and_nothing_beside():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*ORDER, "assets"}
    assert len(folders) <= 15
    assert {str(path) for path in FILES if len(path.parts) == 1} == {"__init__.py", "__main__.py"}


def test_imports_point_to_the_left():
    assert faults(lambda path: violations(tree_of(path), path)) == {}


def test_what_python_calls_knows_no_verb():
    def verbs(path):
        parts = path.with_suffix("").parts
        rooms = [name.split(".")[1:3] for name in imports(tree_of(path), parts)]
        return {room[1] for room in rooms if room[:1] == ["commands"]} - {"tasks", "views"}

    assert faults(verbs, [path for path in FILES if path.parts[:2] == TASKS]) == {}


def test_no_file_imports_itself_by_a_circle():
    """Of a package's names, the file that defines the name counts, not the package's __init__."""
    graph = {}
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            continue  # lists the names of its room
        needed = set()
        for name in imports(tree_of(path), path.with_suffix("").parts):
            inside = name.removeprefix(f"{PACKAGE}.")
            needed |= {part for part in (inside, inside.rpartition(".")[0]) if part in MODULES}
        graph[module] = {name for name in needed if MODULES[name].name != "__init__.py"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_no_file_asks_its_own_room_for_a_name():
    """A file imports its neighbours by their files: asking the room's __init__, which imports them all, is a circle."""

    def asked(path):
        room = ".".join([PACKAGE, *path.parts[:-1]])
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == room:
                yield from (f"{room}.{alias.name}" for alias in node.names)

    def names(path):
        return {name for name in asked(path) if name.removeprefix(f"{PACKAGE}.") not in MODULES}

    assert faults(names, [path for path in FILES if path.name != "__init__.py"]) == {}


def test_optional_libraries_are_imported_inside_functions():
    def at_once(path):
        """The libraries that are imported outside of functions."""
        tree = tree_of(path)
        functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
        nested = {id(node) for outer in functions for node in ast.walk(outer)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in nested:
                names = imports(node, path.with_suffix("").parts)
                yield from (name.split(".")[0] for name in names)

    assert faults(lambda path: OPTIONAL.intersection(at_once(path))) == {}


def imports_at_start(path):
    """What a file imports when it is imported itself: not what its functions do, nor what is there for types alone."""
    late = (*FUNCTIONS, ast.If)
    waiting = list(tree_of(path).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node, path.with_suffix("").parts)
        elif not isinstance(node, late):
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)
            ]


def reached_from(module):
    """The libraries that importing a module of the package imports, by the module that does."""
    found, seen, waiting = {}, set(), [module]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports_at_start(MODULES[module]):
            top, *rest = name.split(".")
            if top == PACKAGE:
                prefixes = [".".join(rest[:length]) for length in range(1, len(rest) + 1)]
                waiting += [prefix for prefix in prefixes if prefix in MODULES]
            else:
                found.setdefault(top, module)
    return found


def test_a_student_is_sampled_without_the_libraries_that_take_seconds_to_import():
    slow = {"lightning", "torchmetrics", "timm", "torchvision", "matplotlib", "diffusers", "scipy"}
    reached = reached_from("commands.sample")
    assert {name: module for name, module in reached.items() if name in slow} == {}
    assert {"torch", "rich", "PIL"} <= reached.keys()


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
        ("metrics/a.py", "import lightning.pytorch", True),
        ("metrics/a.py", "from freeflow_lightning.examples import digits", True),
        ("teachers/a.py", "from freeflow_lightning.nets import SiT", False),
        ("teachers/a.py", "from freeflow_lightning.training import data", True),
        ("recipes/a.py", "from freeflow_lightning.training.data import PriorDataModule", False),
        ("recipes/a.py", "from freeflow_lightning.callbacks import StudentEMA", True),
        ("sampling/a.py", "from freeflow_lightning.students.flow_map import FlowMap", True),
        (
            "students/search/a.py",
            "from freeflow_lightning.evaluation.reference import teacher_table",
            True,
        ),
        ("callbacks/a.py", "from freeflow_lightning.recipes.freeflow import FreeFlowModule", False),
        ("callbacks/a.py", "from freeflow_lightning.commands import sample", True),
        ("commands/views/a.py", "from freeflow_lightning.callbacks import StudentEMA", False),
    ],
)
def test_the_parser_sees(path, line, refused):
    assert bool(list(violations(ast.parse(line), Path(path)))) == refused
