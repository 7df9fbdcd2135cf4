"""Errors of the command line, cut down to their cause."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from freeflow_lightning.commands.brief import brief, did_you_mean
from freeflow_lightning.commands.words import as_integer, as_list, left_empty, spell_out
from freeflow_lightning.commands.yaml_settings import MODE

_ALWAYS_TOLD = ("MisconfigurationException", "OutOfMemoryError")
_TELLING = ("freeflow_lightning", "jsonargparse", "lightning")
"""Packages whose errors are written for who gave the settings."""
_OTHER_SPELLINGS = {
    re.compile(r"(\S+): expected a list, got (\S+): write \["): as_list,
    re.compile(r"(\S+): expected an integer, got ([\d.e+-]+)(?: |$)"): as_integer,
}
"""Messages about a value that may be meant otherwise, and how the command line says it then."""


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
    if isinstance(error, ValueError | TypeError | ModuleNotFoundError | RuntimeError) and _is_of(
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
        if empty := left_empty(words):
            self._refuse(f"{empty} is empty: give a value, or leave it out (is a variable unset?)")
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
        elif match := re.fullmatch(r"Subcommand '(\w+)' does not accept option '(.+)'", text):
            section = "".join(match[2].rpartition(".")[:2])
            known = [option.removeprefix("--") for option in self._options([match[1]])]
            known = [name for name in known if "".join(name.rpartition(".")[:2]) == section]
            text = f"option {match[2]!r} is not accepted{did_you_mean(match[2], known, section)}"
        verb = sys.argv[1]
        print(
            f"freeflow {verb}: {text}\n(freeflow {verb} --help lists the options)", file=sys.stderr
        )
        sys.exit(2)
