"""Which import paths lead to classes of this package, told from its source: nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "freeflow_lightning"
ROOT = Path(__file__).parents[2]
HIDDEN = f"{PACKAGE}.commands"
"""What no file may name."""


def is_declared(path: str) -> bool:
    """Return whether a path leads to a class statement of this package outside of its commands,
    through what its modules import from one another.

    >>> is_declared("freeflow_lightning.FreeFlowModule"), is_declared("freeflow_lightning.nets.MLP")
    (True, True)
    >>> is_declared("freeflow_lightning.nets.sit.partial"), is_declared("torch.nn.Linear")
    (False, False)
    """
    module, _, name = path.rpartition(".")
    if f"{module}.".startswith(f"{HIDDEN}."):
        return False
    for node in top_statements(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return is_declared(f"{node.module}.{alias.name}")
    return False


def top_statements(module: str) -> Iterator[ast.stmt]:
    """Yield the statements of a module of this package, also those of its `if TYPE_CHECKING`; none
    where there is no such module.
    """
    package, *parts = module.split(".")
    if package != PACKAGE or not all(part.isidentifier() for part in parts):
        return
    place = ROOT.joinpath(*parts)
    files = [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    if not files:
        return
    for node in ast.parse(files[0].read_text(encoding="utf-8")).body:
        yield from node.body if isinstance(node, ast.If) else [node]
