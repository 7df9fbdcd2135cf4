"""What the command line can do, Python can: the same options, by the same names, with the same defaults."""

import inspect
from dataclasses import MISSING, fields

import pytest

import freeflow_lightning as ff
from freeflow_lightning.commands.diagnose import diagnose
from freeflow_lightning.commands.evaluate import evaluate
from freeflow_lightning.commands.export import export
from freeflow_lightning.commands.report import report
from freeflow_lightning.commands.run import options_of
from freeflow_lightning.commands.search import search

OPENING = {"opening", "where", "work"}
"""Chapters about opening a student and about the device, which a FlowMap has behind it."""
NOT_IN_PYTHON = {
    "evaluate": {"output", "network", "trust"},
    "diagnose": {"output", "network", "trust", "teacher"},
    "search": {"network", "trust", "teacher"},
    "export": {"compare", "num_samples", "network", "trust", "teacher"},
    "report": {"network", "trust", "teacher"},
}
"""What `save(folder)` and `FlowMap.from_checkpoint(teacher=, network=, trust=)` take instead."""
OTHERWISE = {"search": {"output"}, "export": {"output"}, "report": {"run"}}
"""What has another default in Python, or must be given there."""


def defaults_of(verb):
    found = {}
    shared = options_of(verb)
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in OPENING:
            continue
        if name in shared:
            found |= {
                field.name: None if field.default is MISSING else field.default
                for field in fields(shared[name])
            }
        else:
            found[name] = parameter.default
    return found


@pytest.mark.parametrize("verb", [evaluate, diagnose, search, export, report])
def test_python_takes_the_options_of_a_verb(verb):
    name = verb.__name__
    function = getattr(ff, name)
    given = inspect.signature(function).parameters
    for option, default in defaults_of(verb).items():
        if option in NOT_IN_PYTHON[name]:
            continue
        assert option in given, f"{name} has --{option}"
        if option not in OTHERWISE.get(name, ()):
            assert given[option].default == default, f"{name}, {option}"
