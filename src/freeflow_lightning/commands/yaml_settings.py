"""YAML as configs of this package are written: a key stands once, and inf is a number."""

import re
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from freeflow_lightning.training.old_names import use_new_paths

MODE = "freeflow"
"""The parser mode of jsonargparse that reads with `read_yaml`."""
INFINITY = re.compile(r"([+-]?)\.?inf(inity)?", re.IGNORECASE)
"""Infinity as people write it; YAML's own spelling is .inf."""

_read = get_loader("yaml")


def read_yaml(text: str) -> Any:
    """Read YAML as jsonargparse does, with inf as a number and class paths of 0.1.0 as today's.

    Raises:
        yaml.YAMLError: a key that stands twice in one mapping.

    >>> read_yaml("{decay_steps: inf, rate: 1e-3, name: x}")
    {'decay_steps': inf, 'rate': 0.001, 'name': 'x'}
    >>> read_yaml("{steps: 1, steps: 2}")
    Traceback (most recent call last):
    yaml.error.YAMLError: the key 'steps' stands twice, in lines 1 and 1: remove one
    """
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    if tree is not None:
        _refuse_second_keys(tree)
    return use_new_paths(_with_infinities(_read(text)))


def _refuse_second_keys(node: yaml.Node) -> None:
    """Raise for a key that stands twice; YAML would take the last and say nothing."""
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_second_keys(value)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            if key.value in lines:
                first = lines[key.value]
                raise yaml.YAMLError(
                    f"the key {key.value!r} stands twice, in lines {first} and {line}: remove one"
                )
            lines[key.value] = line
        _refuse_second_keys(value)


def _with_infinities(value: Any) -> Any:
    """The value with each string that says infinity as a number."""
    if isinstance(value, dict):
        return {key: _with_infinities(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_infinities(part) for part in value]
    if isinstance(value, str) and (match := INFINITY.fullmatch(value)):
        return float(f"{match[1]}inf")
    return value


set_loader(MODE, read_yaml, (yaml.YAMLError,))
