"""Classes of this package as one file of Python that needs nothing of it: their source with what it
uses, in order.
"""

import ast
import importlib
import inspect
from collections.abc import Iterable
from types import ModuleType

PACKAGE = __name__.partition(".")[0]


class _Module:
    """A module's top-level definitions and imports, by the names that they bind."""

    def __init__(self, name: str) -> None:
        module: ModuleType = importlib.import_module(name)
        self.source = inspect.getsource(module)
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, ast.Import | ast.ImportFrom] = {}
        for node in ast.parse(self.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= {
                    alias.asname or alias.name.partition(".")[0]: node for alias in node.names
                }
            else:
                self.definitions |= dict.fromkeys(_bound(node), node)


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _used(node: ast.stmt) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]


def bundle(roots: Iterable[type]) -> str:
    """The source of the classes and of everything of this package that they use; other libraries
    are imported.

    >>> from freeflow_lightning.nets import ScalarEmbedder
    >>> text = bundle([ScalarEmbedder])
    >>> "def sinusoid(" in text, "class LabelEmbedder" in text, "freeflow_lightning" in text
    (True, False, False)
    """
    modules: dict[str, _Module] = {}
    imported: dict[str, None] = {}
    taken: dict[tuple[str, int], str] = {}
    seen: set[tuple[str, str]] = set()

    def take(where: str, name: str) -> None:
        if (where, name) in seen:
            return
        seen.add((where, name))
        if where not in modules:
            modules[where] = _Module(where)
        module = modules[where]
        if name in module.definitions:
            node = module.definitions[name]
            for other in _used(node):
                take(where, other)
            clash = [
                place
                for place in modules
                if place != where and (place, name) in seen and name in modules[place].definitions
            ]
            assert not clash, (
                f"{name} is defined in {where} and in {clash}"
            )  # they would shadow each other in one file
            taken[where, node.lineno] = (
                ast.get_source_segment(module.source, node, padded=True) or ""
            )
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                decorators = [f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list]
                taken[where, node.lineno] = "".join(decorators) + taken[where, node.lineno]
        elif name in module.imports:
            node = module.imports[name]
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").partition(".")[0] == PACKAGE
            ):
                take(_home(node.module or "", name), name)
            else:
                imported[_import_line(node, name)] = None

    for root in roots:
        take(root.__module__, root.__name__)
    return "\n".join(sorted(imported)) + "\n\n\n" + "\n\n\n".join(taken.values()) + "\n"


def _home(module: str, name: str) -> str:
    """Where a name that a package re-exports is defined."""
    found = getattr(importlib.import_module(module), name)
    return getattr(found, "__module__", module)


def _import_line(node: ast.Import | ast.ImportFrom, name: str) -> str:
    alias = next(
        alias for alias in node.names if name in (alias.asname, alias.name.partition(".")[0])
    )
    text = alias.name + (f" as {alias.asname}" if alias.asname else "")
    return (
        f"from {node.module} import {text}"
        if isinstance(node, ast.ImportFrom)
        else f"import {text}"
    )
