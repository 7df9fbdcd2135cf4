"""Options and their help, read from the source: nothing is imported, so that no one waits for torch."""

import argparse
import ast
import importlib.util
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = "freeflow_lightning"


class Option(NamedTuple):
    """An option as the source says it."""

    name: str
    kind: str
    default: str | None
    """As in the source; None for an option that must be given."""
    about: str


Chapters = Sequence[tuple[str, Sequence[Option]]]
"""Titles, and the options below each."""


class Source:
    """A module of this package as a tree, with the modules that it takes names from."""

    def __init__(self, module: str) -> None:
        package, *parts = module.split(".")
        spec = importlib.util.find_spec(package)  # of a package: looked for, not imported
        assert spec is not None
        assert spec.submodule_search_locations is not None
        path = Path(spec.submodule_search_locations[0], *parts)
        file = (
            path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        )
        self.tree = ast.parse(file.read_text(encoding="utf-8"))

    def find(self, name: str) -> "tuple[ast.AST, Source] | None":
        """Return what a name stands for here, and the module that says it; None for others'
        names.
        """
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return node, self
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return node.value, self
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return Source(str(node.module)).find(alias.name)
        return None


def read_help(module: str, verb: str) -> str:
    """Return the help of a verb.

    Args:
        module: its import path.
        verb: the function: its parameters are the options, those of an Options its fields.

    >>> read_help("freeflow_lightning.commands.sample", "sample").splitlines()[0]
    'usage: freeflow sample CHECKPOINT [options]'
    """
    source = Source(module)
    given = source.find("USAGE")
    chapters = read_chapters(module, verb)
    required = [option.name for _, options in chapters for option in options if not option.default]
    words = ["freeflow", verb, *(name.upper() for name in required[:1]), "[options]"]
    usage = ast.literal_eval(given[0]) if given else " ".join(words)
    about = (ast.get_docstring(_function(source, verb)) or "").partition("\n\nArgs:")[0]
    return format_help(str(usage), about, chapters)


def read_chapters(module: str, verb: str) -> Chapters:
    """Return the titles and options of a verb's chapters, in the order of its parameters."""
    source = Source(module)
    function = _function(source, verb)
    about = _docs_of(function)
    own: list[Option] = []
    chapters: list[tuple[str, list[Option]]] = []
    for name, kind, default in _parameters(function):
        shared = source.find(kind)
        if shared is not None and _is_options(*shared):
            title = (ast.get_docstring(shared[0]) or "").partition("\n")[0]  # type: ignore[arg-type]  # a class
            chapters.append((title, list(_fields(*shared))))
            continue
        if name == "overrides":
            continue
        if not own:
            chapters.append((f"of {function.name}", own))
        own.append(Option(name, _kind_in_words(kind, source), default, about.get(name, "")))
    return chapters


def _function(source: Source, name: str) -> ast.FunctionDef:
    found = source.find(name)
    assert found is not None, f"no {name} in the source"
    function = found[0]
    assert isinstance(function, ast.FunctionDef)
    return function


def read_class(module: str, name: str, prefix: str) -> list[Option]:
    """Return the arguments of a class's constructor as options, --PREFIX.NAME.

    >>> read_class("freeflow_lightning.training.data", "PriorDataModule", "data")[0].name
    'data.batch_size'
    """
    found = Source(module).find(name)
    assert found is not None, f"{module} has no {name}"
    return [
        option._replace(name=f"{prefix}.{option.name}") for option in _constructor_options(*found)
    ]


def _constructor_options(node: ast.AST, source: Source) -> list[Option]:
    """Return the arguments of a class's constructor, and of its base's those that **settings
    take.
    """
    assert isinstance(node, ast.ClassDef)
    constructor = _constructor_of(node)
    about = _docs_of(node) | _docs_of(constructor)
    options = []
    for name, kind, default in _parameters(constructor):
        if name != "self":
            words = _kind_in_words(kind, source), _default_in_words(default, source)
            options.append(Option(name, *words, about.get(name, "")))
    if not constructor.args.kwarg:
        return options
    base = _find_constructor_above(node, source)
    if base is None:
        return options
    keywords = {argument.arg for argument in _constructor_of(base[0]).args.kwonlyargs}
    for option in _constructor_options(*base):
        if option.name in keywords - {own.name for own in options}:
            options.append(option._replace(about=about.get(option.name, option.about)))
    return options


def _find_constructor_above(
    node: ast.ClassDef, source: Source
) -> tuple[ast.ClassDef, Source] | None:
    """Return the first base that has a constructor; None where the source of one is elsewhere."""
    found = source.find(ast.unparse(node.bases[0]))
    if found is None:
        return None
    base, where = found
    assert isinstance(base, ast.ClassDef)
    return (base, where) if _has_constructor(base) else _find_constructor_above(base, where)


def _has_constructor(node: ast.ClassDef) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == "__init__" for part in node.body)


def _constructor_of(node: ast.AST) -> ast.FunctionDef:
    assert isinstance(node, ast.ClassDef)
    bodies = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    return next(part for part in bodies if part.name == "__init__")


def format_help(usage: str, about: str, chapters: Chapters) -> str:
    """Return a page of help: usage, what it is about, and chapters of options."""
    parser = argparse.ArgumentParser(usage=usage, description=about)
    for title, options in chapters:
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
    return parser.format_help()


def _parameters(function: ast.FunctionDef) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, annotation and default of each parameter."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    pairs = zip(
        [*positional, *given.kwonlyargs],
        [*defaults, *given.defaults, *given.kw_defaults],
        strict=True,
    )
    for argument, default in pairs:
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        yield argument.arg, kind, None if default is None else ast.unparse(default)


def _fields(node: ast.AST, source: Source) -> Iterator[Option]:
    """Yield the fields of a dataclass, those of its bases first, each as it is said last."""
    assert isinstance(node, ast.ClassDef)
    about = _docs_of(node)
    fields: dict[str, Option] = {}
    for base in node.bases:
        inherited = source.find(ast.unparse(base))
        if inherited is not None:
            for option in _fields(*inherited):
                fields[option.name] = option._replace(about=about.get(option.name, option.about))
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
            default = None if field.value is None else ast.unparse(field.value)
            inner = source.find(kind)
            if inner is not None and isinstance(inner[0], ast.ClassDef) and default is not None:
                for option in _fields(*inner):
                    longer = f"{name}.{option.name}"
                    fields[longer] = option._replace(name=longer)
            else:
                words = _kind_in_words(kind, source)
                fields[name] = Option(name, words, default, about.get(name, ""))
    yield from fields.values()


def _is_options(node: ast.AST, source: Source) -> bool:
    """Return whether a class is an Options, itself or by its bases."""
    if not isinstance(node, ast.ClassDef):
        return False
    for base in map(ast.unparse, node.bases):
        above = source.find(base)
        if base == "Options" or (above is not None and _is_options(*above)):
            return True
    return False


def _kind_in_words(kind: str, source: Source) -> str:
    """Return a type as a reader wants it: the words of a Literal, without None."""
    parts = [part.strip() for part in kind.split(" | ")]
    words = []
    for part in parts:
        found = source.find(part)
        spelled = ast.unparse(found[0]) if found and isinstance(found[0], ast.Subscript) else part
        words.append(spelled)
    return " or ".join(word for word in words if word != "None").replace("Literal", "one of ")


def _default_in_words(default: str | None, source: Source) -> str | None:
    """Return a default with a constant of the module as what it stands for."""
    found = source.find(default) if default is not None else None
    return ast.unparse(found[0]) if found else default


def _docs_of(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    """Return what the docstring's "Args:" says of each name."""
    text = (ast.get_docstring(node) or "").partition("\n\nArgs:\n")[2].partition("\n\n")[0]
    about: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(text).splitlines():
        words = line
        if not line.startswith(" "):
            name, _, words = line.partition(":")
        about[name] = f"{about.get(name, '')} {words.strip()}".strip()
    return about


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    default = "must be given" if option.default is None else f"default: {option.default}"
    if option.default in ("None", "True", "False"):
        default = {"None": "", "True": "default: true", "False": "default: false"}[option.default]
    facts = ", ".join(fact for fact in (option.kind, default) if fact)
    text = f"{option.about} ({facts})".replace("%", "%%")
    metavar = option.name.rpartition(".")[2].upper()
    group.add_argument(f"--{option.name}", metavar=metavar, help=text)
