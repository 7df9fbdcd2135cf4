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
                self.definitions |= dict.fromkeys(_find_bound_names(node), node)


def _find_bound_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _find_used_names(node: ast.stmt) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]


def bundle(roots: Iterable[type]) -> str:
    """Return the source of the classes and of everything of this package that they use; other
    libraries are imported.

    >>> from freeflow_lightning.nets import ScalarEmbedder
    >>> text = bundle([ScalarEmbedder])
    >>> "def sinusoid(" in text, "class LabelEmbedder" in text, "freeflow_lightning" in text
    (True, False, False)
    """
    found = _Bundle()
    for root in roots:
        found.take(root.__module__, root.__name__)
    imports, definitions = sorted(found.imports), found.definitions.values()
    return "\n".join(imports) + "\n\n\n" + "\n\n\n".join(definitions) + "\n"


class _Bundle:
    """Definitions that are taken with everything of this package that they use."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.definitions: dict[tuple[str, int], str] = {}
        """By module and line, what is used before what uses it."""
        self._modules: dict[str, _Module] = {}
        self._seen: set[tuple[str, str]] = set()

    def take(self, where: str, name: str) -> None:
        """Take a name of a module: its definition, or the line that imports it."""
        if (where, name) in self._seen:
            return
        self._seen.add((where, name))
        if where not in self._modules:
            self._modules[where] = _Module(where)
        module = self._modules[where]
        if name in module.definitions:
            self._define(where, name)
        elif name in module.imports:
            self._import(module.imports[name], name)

    def _define(self, where: str, name: str) -> None:
        module = self._modules[where]
        node = module.definitions[name]
        for other in _find_used_names(node):
            self.take(where, other)
        others = [
            place
            for place, other in self._modules.items()
            if place != where and (place, name) in self._seen and name in other.definitions
        ]
        # they would shadow each other in one file
        assert not others, f"{name} is defined in {where} and in {others}"
        text = ast.get_source_segment(module.source, node, padded=True) or ""
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            decorators = [f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list]
            text = "".join(decorators) + text
        self.definitions[where, node.lineno] = text

    def _import(self, node: ast.Import | ast.ImportFrom, name: str) -> None:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if module.partition(".")[0] == PACKAGE:
            self.take(_find_home(module, name), name)
        else:
            self.imports.add(_import_line(node, name))


def _find_home(module: str, name: str) -> str:
    """Return where a name that a package re-exports is defined."""
    found = getattr(importlib.import_module(module), name)
    return getattr(found, "__module__", module)


def _import_line(node: ast.Import | ast.ImportFrom, name: str) -> str:
    alias = next(
        alias for alias in node.names if name in (alias.asname, alias.name.partition(".")[0])
    )
    text = alias.name + (f" as {alias.asname}" if alias.asname else "")
    if isinstance(node, ast.ImportFrom):
        return f"from {node.module} import {text}"
    return f"import {text}"
