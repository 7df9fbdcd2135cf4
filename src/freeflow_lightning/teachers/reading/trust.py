"""Which classes the config of a checkpoint may name: this package's, torch's layers, diffusers'
networks, others by leave.
"""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings
from torch import nn

from freeflow_lightning.teachers.reading.declared import is_declared

KNOWN = ("freeflow_lightning", "torch.nn", "diffusers.models")
"""Import paths that a checkpoint may name."""

NOT_KNOWN = ("freeflow_lightning.commands", "freeflow_lightning.commands.main")
"""What it may not name of these."""


def class_paths(config: Any) -> list[str]:
    """Return every class_path in a config, each once, the outer before the inner.

    >>> class_paths({"class_path": "a.A", "init_args": {"net": {"class_path": "b.B"}, "x": [1, {"class_path": "a.A"}]}})
    ['a.A', 'b.B']
    """
    return list(dict.fromkeys(_class_paths(config)))


def _class_paths(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(path := config.get("class_path"), str):
            yield path
        for value in config.values():
            yield from _class_paths(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _class_paths(value)


def trusted(trust: str | Sequence[str] | None, config: Any = None) -> list[str]:
    """Return the paths that the user lets a file import: those named, and the config's other
    classes in their modules.

    >>> trusted("my_net.UNet", {"class_path": "my_net.UNet", "init_args": {"net": {"class_path": "my_net.Block"}}})
    ['my_net.UNet', 'my_net.Block']
    """
    named = [trust] if isinstance(trust, str) else list(trust or ())
    modules = {path.rpartition(".")[0] for path in named}
    beside = [path for path in class_paths(config) if path.rpartition(".")[0] in modules]
    return list(dict.fromkeys([*named, *beside]))


def is_known(path: str) -> bool:
    """Return whether a class path leads to a class of this package, a layer of torch or a network
    of diffusers.

    What such a module has imported itself (freeflow_lightning.commands.main.os.system) is none of
    these.

    >>> is_known("freeflow_lightning.nets.MLP"), is_known("torch.nn.Linear"), is_known("os.system"), is_known("torch.load")
    (True, True, False, False)
    """
    if not is_under(path, ("freeflow_lightning", "torch.nn", "diffusers")):
        return False
    if is_declared(path):  # without Lightning's seconds, which importing a recipe would take
        return True
    kind = find_object(path)
    if kind is None:  # of another version: the parser names it
        return is_under(path, KNOWN) and not is_under(path, NOT_KNOWN)
    home = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    if not inspect.isclass(kind) or not is_under(home, KNOWN) or is_under(home, NOT_KNOWN):
        return False
    return is_under(home, ("freeflow_lightning",)) or issubclass(kind, nn.Module)


def is_under(path: str, roots: Collection[str]) -> bool:
    """Return whether an import path is one of the roots or lies below one."""
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def find_object(path: str) -> Any:
    """Return what an import path leads to, None where nothing is. Its modules are imported: ask
    only of what may be.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for name in parts[count:]:
            found = getattr(found, name, None)
        return found
    return None


def has_module(path: str) -> bool:
    """Return whether the outermost module of a class path is found from here; nothing is
    imported.
    """
    top = path.partition(".")[0]
    return top != "__main__" and importlib.util.find_spec(top) is not None


@contextmanager
def guarded(others: Collection[str] | None = ()) -> Iterator[None]:
    """Inside, no value of a config makes jsonargparse import anything but `KNOWN` and the given
    paths.

    A value may be an import path wherever a class or a function is expected, not under class_path
    alone. With None the config is the user's own, and imports what it names.
    """
    if others is None:
        yield
        return
    homes = [
        f"{found.__module__}.{found.__qualname__}"
        for path in others
        if hasattr(found := find_object(path), "__qualname__")
    ]
    kept = {
        name: parsing_settings[name] for name in ("import_path_verdicts", "import_paths_enforced")
    }
    parsing_settings["import_path_verdicts"] = {}
    set_parsing_settings(
        import_path_denylist=["*", *NOT_KNOWN], import_path_allowlist=[*KNOWN, *others, *homes]
    )
    try:
        yield
    finally:
        parsing_settings.update(kept)


def denied_import(error: Exception) -> str | None:
    """Return the import path that `guarded` has refused, if that is what an error says."""
    denied = re.search(r"Importing '(\S+?)' is not allowed", str(error))
    return denied[1] if denied else None
