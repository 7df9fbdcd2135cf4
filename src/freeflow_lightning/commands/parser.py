"""Errors of the command line, cut down to their cause."""

import argparse
import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from freeflow_lightning.commands.words import as_integer, as_list, spell_out
from freeflow_lightning.commands.yaml_settings import MODE

_KEY = re.compile(r'Parser key "(.+?)":$')
_GIVEN_CLASS = re.compile(r"Problem with given class_path '(.+?)':$")
_GIVEN = re.compile(r"^ *Given value: (.*)", re.MULTILINE)
_WITHOUT_VALUE = re.compile(r"Expected a <class '(?!NoneType).+?'>")
"""Of a setting that may be None: jsonargparse tells its value in a line of its own."""
_NO_CAUSE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>"
    r"|Expected a path but |Not a valid subclass of |Subclass types expect one of|a class path \(str\)|a dict with"
)

_ALWAYS_TOLD = ("MisconfigurationException", "OutOfMemoryError")
_TELLING = ("freeflow_lightning", "jsonargparse", "lightning")
"""Packages whose errors are written for who gave the settings."""
_LONGEST = 600
_EXPECTED_CLASS = re.compile(r"Expected a <class '(?:[\w.]+\.)?(\w+)'>\. Got value: (.*)")
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "Sequence": "a list",
    "list": "a list",
    "tuple": "a list",
    "dict": "settings by name",
}
"""How a class is called in a message."""
_OTHER_SPELLINGS = {
    re.compile(r"(\S+): expected a list, got (\S+): write \["): as_list,
    re.compile(r"(\S+): expected an integer, got ([\d.e+-]+)(?: |$)"): as_integer,
}
"""Messages about a value that may be meant otherwise, and how the command line says it then."""


def brief(message: str) -> str:
    """Return the cause in jsonargparse's account of everything that it tried, with the keys that
    lead to it and what to do.

    >>> brief('''Parser key "model":
    ...   Does not validate against any of the Union subtypes
    ...   Errors:
    ...     - Problem with given class_path 'freeflow_lightning.nets.MLP':
    ...         Option 'deepth' is not accepted
    ...     - Expected a <class 'NoneType'>
    ...   Given value: 3''')
    "model: option 'deepth' is not accepted by freeflow_lightning.nets.MLP; did you mean 'depth'?"
    """
    keys: list[str] = []
    causes: list[str] = []
    owner = ""
    given = _GIVEN.search(message)
    for line in message.strip().splitlines():
        text = re.sub(r"^(- )+", "", line.strip())
        text, _, inline = (
            text.partition('": ') if text.startswith('Parser key "') else (text, "", "")
        )
        text = f'{text}":' if inline else text
        if match := _KEY.match(text):
            keys += [] if causes else [match[1]]
            text = inline
        elif match := _GIVEN_CLASS.match(text):
            owner, text = match[1], ""
        if given and _WITHOUT_VALUE.fullmatch(text):
            text = f"{text}. Got value: {given[1]}"
        if text and not _NO_CAUSE.match(text):
            causes.append(_advice(text, owner))
    where = ".".join(keys)
    what = " ".join(dict.fromkeys(causes)) or message.strip()
    what = re.sub(r"^\[Errno \d+\] ", "", what)
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]} ..."
    return f"{where}: {what}" if where else what


def _advice(text: str, owner: str) -> str:
    """Return the cause of a refusal in words of its own, with the way out."""
    text = re.sub(r"^Type .+? expects a function or a callable class: ", "", text)
    text = _EXPECTED_CLASS.sub(_expected_kind, text)
    if match := re.fullmatch(r"Problems parsing config: (.+)", text):
        return f"the config cannot be read: {match[1]}"
    if match := re.fullmatch(r"Expected a dot import path string: (.+)", text):
        return f"no class named {match[1]!r}: give its import path, module.Class, or the name of a class of this package"
    if match := re.fullmatch(r"Expected an instantiatable class, but (\S+) is abstract", text):
        missing = sorted(getattr(_find(match[1]), "__abstractmethods__", ()))
        return f"{match[1]} is abstract: define {', '.join(missing)} in it"
    if match := re.fullmatch(r"Option '(.+?)' is not accepted", text):
        options = list(inspect.signature(_find(owner)).parameters) if owner else []
        return (
            f"option {match[1]!r} is not accepted"
            + (f" by {owner}" if owner else "")
            + did_you_mean(match[1], options)
        )
    if match := re.fullmatch(r"the following arguments are required: (.+)", text):
        return f"missing: {match[1]}" + (f" (of {owner})" if owner else "")
    return text


def _expected_kind(match: re.Match[str]) -> str:
    """Return what jsonargparse says of a value of another class, in words."""
    if match[1] not in _KINDS:
        return match[0]
    kind, value = _KINDS[match[1]], match[2]
    example = f": write [{value}]" if kind == "a list" and not value.startswith("{") else ""
    return f"expected {kind}, got {value}{example}"


def is_foreseen(error: BaseException) -> bool:
    """Return whether an error tells the user something, so that its text is enough; a bug keeps its
    traceback.

    Told is what this package, jsonargparse or Lightning raise on purpose, and what the system
    refuses (a file, a disk). Before the first step, what any library or a class of the config
    raises on purpose is told too: it was given a wrong setting.
    """
    if isinstance(error, OSError | argparse.ArgumentError) or type(error).__name__ in _ALWAYS_TOLD:
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not (frames[-1].line or "").startswith("raise"):
        return False
    if isinstance(error, ValueError | ModuleNotFoundError | RuntimeError) and _is_of(
        frames[-1], _TELLING
    ):
        return True
    trains = any(frame.name == "_run_stage" and _is_of(frame, ("lightning",)) for frame in frames)
    refuses = isinstance(error, ValueError | ModuleNotFoundError)
    return not trains and (
        refuses
        or (isinstance(error, RuntimeError | AssertionError) and _is_of(frames[-1], ("torch",)))
    )


def _is_of(frame: traceback.FrameSummary, packages: Sequence[str]) -> bool:
    """Return whether a frame is of one of the packages."""
    files = (getattr(sys.modules.get(package), "__file__", None) for package in packages)
    return any(file and frame.filename.startswith(os.path.dirname(file) + os.sep) for file in files)


def did_you_mean(word: str, options: list[str]) -> str:
    """Return a suggestion to append to an error, or nothing.

    >>> did_you_mean("studnet_lr", ["student_lr", "auxiliary_lr"])
    "; did you mean 'student_lr'?"
    """
    close = difflib.get_close_matches(word, options, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class _ExpectedOther(Exception):  # noqa: N818 (never seen: the value is spelled otherwise, or the message is printed)
    """An option was given one value where its class expects a list, or 1e4 where it expects an
    integer: only jsonargparse knows the types of classes.
    """

    def __init__(self, spell: Callable[..., list[str]], key: str, value: str, message: str) -> None:
        super().__init__(message)
        self.message = message
        self._spell = spell
        self._key = key
        self._value = value

    def spell(self, words: list[str]) -> list[str]:
        """Return the words with the value as its class expects it."""
        return self._spell(words, self._key, self._value)


class BriefErrors(ArgumentParser):
    """An ArgumentParser whose errors are the error, not the list of every flag, and that takes
    lists as one writes them.

    `--classes 1 3` is `--classes [1,3]`, and `--npz` alone is `--npz true`.
    """

    def __init__(self, *others: Any, **named: Any) -> None:
        super().__init__(*others, **({"parser_mode": MODE} | named))

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        words = sys.argv[1:] if args is None else args
        words = spell_out(list(words), self._options(words))
        try:
            return super().parse_args(words, *others, **named)
        except _ExpectedOther as expected:
            spelled = expected.spell(words)
            if spelled == words:  # a config says it
                self._refuse(expected.message)
            return self.parse_args(spelled, *others, **named)

    def _options(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the options by name, those of the subcommand that the words begin with among
        them.
        """
        options = dict(self._option_string_actions)
        for action in self._actions:
            if (
                words
                and isinstance(action, argparse._SubParsersAction)
                and words[0] in action.choices
            ):
                options |= action.choices[words[0]]._option_string_actions
        return options

    def format_help(self, *others: Any, **named: Any) -> str:
        """Without the lists of every module that has been imported, for options that take any."""
        listed = re.compile(r",\s+known\s+subclasses:\s+[^()]{1000,}\)")
        return listed.sub(")", super().format_help(*others, **named))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        for expected, spell in _OTHER_SPELLINGS.items():
            if match := expected.match(brief(message)):
                raise _ExpectedOther(spell, match[1], match[2], message)
        self._refuse(message)

    def _refuse(self, message: str) -> NoReturn:
        """Print the cause of an error and exit."""
        text = brief(message)
        if match := re.fullmatch(r"unrecognized arguments: ([^-].*)", text):
            text = f"expected options alone, --NAME VALUE, got {match[1]}"
        elif match := re.fullmatch(r"unrecognized arguments: (\S+?)((=| ).*)?", text):
            text = f"unknown option {match[1]}" + did_you_mean(
                match[1], list(self._option_string_actions)
            )
        verb = sys.argv[1]
        print(
            f"freeflow {verb}: {text}\n(freeflow {verb} --help lists the options)", file=sys.stderr
        )
        sys.exit(2)
