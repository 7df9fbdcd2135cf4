"""The help that is read from the source has the options, chapters and words of the parser that reads the command line."""

import ast
import importlib
import re

import pytest
from jsonargparse import ArgumentParser

from freeflow_lightning.commands.main import VERBS
from freeflow_lightning.commands.run import parser_of
from freeflow_lightning.commands.static_help import read_class, read_help
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.training.data import PriorDataModule

PARSED = [verb for verb in VERBS if verb not in ("fit", "validate")]


def options_in(page):
    """Chapters and the options in them, in the order of a page of help."""
    found = re.findall(r"^(?:  --([\w.]+) |(\S.*):$)", page, re.MULTILINE)
    return [option or f"# {title}" for option, title in found if title != "options"]


@pytest.mark.parametrize("verb", PARSED)
def test_it_lists_what_the_parser_takes(verb):
    module = VERBS[verb][0]
    parser = parser_of(getattr(importlib.import_module(module), verb))
    taken = options_in(parser.format_help())
    listed = options_in(read_help(module, verb))
    inner = {option.partition(".")[0] for option in listed if "." in option}
    ignored = {"config", *inner}  # a file of options, and whole objects
    names = {option for option in taken if not option.startswith("# ")}
    expected = {name for name in names if not name.endswith((".help", "print_config"))}
    assert {option for option in listed if not option.startswith("# ")} - ignored == (
        expected - ignored
    )
    chapters = [option for option in listed if option.startswith("# ")]
    assert f"# of {verb}" in chapters
    assert set(chapters) <= set(taken)


@pytest.mark.parametrize(("kind", "prefix"), [(FreeFlowModule, "model"), (PriorDataModule, "data")])
def test_a_class_has_its_arguments_with_defaults_and_words(kind, prefix):
    options = read_class(kind.__module__, kind.__name__, prefix)
    parser = ArgumentParser()
    parser.add_class_arguments(kind, prefix, fail_untyped=False)
    defaults = vars(parser.get_defaults()[prefix])
    assert {option.name for option in options} == {f"{prefix}.{name}" for name in defaults}
    assert all(option.about for option in options)
    for option in options:
        expected = defaults[option.name.partition(".")[2]]
        if isinstance(expected, int | float | str | tuple):
            assert ast.literal_eval(option.default) == expected, option


def test_types_and_defaults_are_said_in_words():
    page = " ".join(read_help("freeflow_lightning.commands.sample", "sample").split())
    assert "heun if not given. (one of ['euler', 'heun', 'midpoint', 'rk4'])" in page
    assert "how many samples. (int, default: 64)" in page
    assert "for its last one; a folder or hub repository" in page  # of StudentOptions
    page = " ".join(read_help("freeflow_lightning.commands.evaluate", "evaluate").split())
    assert "(str, must be given)" in page
    fit = read_class("freeflow_lightning.recipes.freeflow", "FreeFlowModule", "model")
    assert {option.name: option.default for option in fit}["model.r"] == "LogitNormal(0.8, 1.6)"
