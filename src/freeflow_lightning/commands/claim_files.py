"""The claims that come with the package, configs/claims/NAME.yml, and the contenders they
compare.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from freeflow_lightning.commands.built_in_configs import configs_folder
from freeflow_lightning.commands.contender import Contender, read_contender
from freeflow_lightning.evaluation.claims import Arm, Claim, Settings


def list_claims() -> dict[str, Claim]:
    """Return every claim by its name, in the order of the paper."""
    claims = [_read(path) for path in _paths().values()]
    return {claim.name: claim for claim in sorted(claims, key=lambda claim: claim.order)}


def find_claim(name: str) -> Claim:
    """Return the claim of a name (Raises: ValueError with those that are near)."""
    paths = _paths()
    if name in paths:
        return _read(paths[name])
    near = difflib.get_close_matches(name, paths, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(paths)}"
    raise ValueError(f"no claim is called {name!r}: {hint} (`freeflow reproduce` lists them)")


def _paths() -> dict[str, Path]:
    return {path.stem: path for path in (configs_folder() / "claims").glob("*.yml")}


def _read(path: Path) -> Claim:
    return Claim.of(path.stem, yaml.safe_load(path.read_text(encoding="utf-8")))


def contender_of(claim: Claim, arm: Arm) -> Contender:
    """Return the contender of an arm: the claim's base config with what is common and what the arm
    changes.
    """
    changes = [claim.common, *arm.settings]
    base = next(
        (change["config"] for change in reversed(changes) if "config" in change), claim.base
    )
    contender = _base(base)
    settings = contender.settings.clone()
    for change in changes:
        change_settings(settings, change)
    return Contender(slug(arm.label), contender.words, settings)


@cache
def _base(words: str) -> Contender:
    return read_contender(words, [])


def change_settings(settings: Namespace, change: Settings) -> None:
    """Change the settings of `freeflow fit` in place: arguments of model and data, and
    callbacks.
    """
    for part in ("model", "data"):
        if part in change:
            old = settings[part].as_dict()
            settings[part] = Namespace(**merge_settings(old, _as_class_config(change[part])))
    given = [each.as_dict() for each in settings.trainer.callbacks or []]
    callbacks = change_callbacks(given, change.get("callbacks", {}))
    settings.trainer.callbacks = [Namespace(**each) for each in callbacks]


def _as_class_config(change: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments as a class and its arguments, which they may be already."""
    return change if {"class_path", "init_args"} & set(change) else {"init_args": change}


def merge_settings(old: Any, new: Any) -> Any:
    """Return the old settings with the new ones in them; another class takes the place of the old
    one.

    >>> merge_settings({"class_path": "A", "init_args": {"k": 1, "n": 2}}, {"init_args": {"k": 3}})
    {'class_path': 'A', 'init_args': {'k': 3, 'n': 2}}
    >>> merge_settings({"class_path": "A", "init_args": {"k": 1}}, {"class_path": "B"})
    {'class_path': 'B'}
    """
    is_nested = isinstance(old, Mapping) and isinstance(new, Mapping)
    if not is_nested or new.get("class_path", old.get("class_path")) != old.get("class_path"):
        return new
    return {**old, **{name: merge_settings(old.get(name), value) for name, value in new.items()}}


def change_callbacks(
    callbacks: Iterable[dict[str, Any]], changes: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the callbacks with changed arguments, by the name of the class; null leaves one out.

    >>> change_callbacks([{"class_path": "a.EMA"}, {"class_path": "a.Grid"}], {"Grid": None, "EMA": {"k": 1}})
    [{'class_path': 'a.EMA', 'init_args': {'k': 1}}]
    """
    kept = []
    for callback in callbacks:
        name = callback["class_path"].rpartition(".")[2]
        change = changes.get(name, {})
        if change is not None:
            kept.append(merge_settings(callback, {"init_args": change}) if change else callback)
    return kept


def slug(label: str) -> str:
    """Return a label as the name of a folder.

    >>> slug("prediction alone / Heun / 8"), slug("[0, 0.4]"), slug("")
    ('prediction-alone-heun-8', '0-0.4', 'student')
    """
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-") or "student"
