"""YAML as configs of this package are written: a key stands once, inf is a number, and 1e4 a whole
one.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from freeflow_lightning.training.old_names import use_new_paths

MODE = "freeflow"
"""The parser mode of jsonargparse that reads with `read_yaml`."""
INFINITY = re.compile(r"([+-]?)\.?inf(inity)?", re.IGNORECASE)
"""Infinity as people write it; YAML's own spelling is .inf."""

EXPONENT = re.compile(r"[+-]?\d+(\.\d+)?[eE]\+?\d{1,2}")
"""A number that may be a whole one, written with an exponent."""

_read = get_loader("yaml")


def read_yaml(text: str) -> Any:
    """Read YAML as jsonargparse does, with inf as a number, 1e4 as an integer, and class paths of
    0.1.0 as today's.

    Raises:
        yaml.YAMLError: a key that stands twice in one mapping.

    >>> read_yaml("{decay_steps: inf, rate: 1e-3, steps: 2.5e4, name: x}")
    {'decay_steps': inf, 'rate': 0.001, 'steps': 25000, 'name': 'x'}
    >>> read_yaml("{a: &many 1e4, b: *many, c: 1e2, d: [1e2, '1e2']}")
    {'a': 10000.0, 'b': 10000.0, 'c': 100, 'd': [100, '1e2']}
    >>> read_yaml("{steps: 1, steps: 2}")
    Traceback (most recent call last):
    yaml.error.YAMLError: the key 'steps' stands twice, in lines 1 and 1: remove one
    """
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    if tree is not None:
        _refuse_second_keys(tree)
        text = _with_whole_numbers(text, tree)
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


def _with_whole_numbers(text: str, tree: yaml.Node) -> str:
    """Return the text with 1e4 as 10000, which alone passes for a count; a number such as 1.25e1
    stays, and so does one with an anchor or a tag.
    """
    spans = {node.start_mark.index: node for node in _plain_scalars(tree)}  # aliases repeat nodes
    for start, node in sorted(spans.items(), reverse=True):
        end = node.end_mark.index
        number = whole_number(node.value)
        if number is not None and text[start:end] == node.value:
            text = f"{text[:start]}{number}{text[end:]}"
    return text


def whole_number(text: str) -> str | None:
    """Return a whole number that is written with an exponent, without it; None for anything else.

    >>> whole_number("2.5e4"), whole_number("2.5e0"), whole_number("25000")
    ('25000', None, None)
    """
    if not EXPONENT.fullmatch(text) or not float(text).is_integer():
        return None
    return f"{float(text):.0f}"


def _plain_scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield the values of a tree that stand without quotes, in the order of the text; keys are
    none.
    """
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _plain_scalars(part)
    elif isinstance(node, yaml.MappingNode):
        for _, part in node.value:
            yield from _plain_scalars(part)


def _with_infinities(value: Any) -> Any:
    """Return the value with each string that says infinity as a number."""
    if isinstance(value, dict):
        return {key: _with_infinities(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_infinities(part) for part in value]
    if isinstance(value, str) and (match := INFINITY.fullmatch(value)):
        return float(f"{match[1]}inf")
    return value


set_loader(MODE, read_yaml, (yaml.YAMLError,))
