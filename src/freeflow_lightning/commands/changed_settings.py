"""Which settings of a run differ from those that it was started with, one line each."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CONFIG = "config.yaml"
IGNORED = ("config", "ckpt_path")
"""Where settings were read from, and what the run goes on from: no settings."""


def config_of_resumption(step: int) -> str:
    """Return the name of the config that a run went on with from a step; the first one is
    config.yaml.

    >>> config_of_resumption(500)
    'config_from_step_500.yaml'
    """
    return f"config_from_step_{step}.yaml"


def settings_at(run: Path, step: int) -> dict[str, Any] | None:
    """Return the settings that a run had when it came to a step; None where its folder does not
    say.
    """
    found = {0: run / CONFIG}
    for path in run.glob(config_of_resumption(0).replace("0", "*")):
        if match := re.fullmatch(r"config_from_step_(\d+)\.yaml", path.name):
            found[int(match[1])] = path
    path = found[max(start for start in found if start < step or not start)]
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return settings if isinstance(settings, dict) else None


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a line for each setting that differs; of an object that is new or gone, one line.

    >>> changes({"data": {"seed": 0, "length": 5}}, {"data": {"seed": 1, "length": 5}})
    ['data.seed: 0 -> 1']
    """
    old, new = dict(_flatten(before)), dict(_flatten(after))
    lines = []
    for name in dict.fromkeys([*old, *new]):
        owner = name.rpartition(".")[0]
        is_part = (owner in old) != (owner in new)
        if old.get(name) != new.get(name) and not is_part and name not in IGNORED:
            lines.append(f"{name}: {_show(old, name)} -> {_show(new, name)}")
    return lines


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name: an object's class under its own name, its arguments below that."""
    inner = f"{name}." if name else ""
    if _is_object(value):
        yield name, value["class_path"]
        yield from _flatten(value.get("init_args") or {}, name)
        yield from _flatten(value.get("dict_kwargs") or {}, name)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _flatten(part, f"{inner}{key}")
    elif isinstance(value, list) and value and all(map(_is_object, value)):
        seen: Counter[str] = Counter()
        for part in value:
            kind = part["class_path"].rpartition(".")[2]
            seen[kind] += 1
            number = "" if seen[kind] == 1 else f" {seen[kind]}"
            yield from _flatten(part, f"{inner}{kind}{number}")
    elif value is not None:
        yield name, value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class_path"), str)


def _show(settings: dict[str, Any], name: str) -> str:
    if name not in settings:
        return "not set"
    value = settings[name]
    return value if isinstance(value, str) else json.dumps(value, default=str)
