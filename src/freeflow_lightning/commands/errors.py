"""Errors of the command line, cut down to their cause."""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser

_KEY = re.compile(r'Parser key "(.+?)":$')
_GIVEN_CLASS = re.compile(r"Problem with given class_path '(.+?)':$")
_NO_CAUSE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>"
    r"|Expected a path but |Not a valid subclass of |Subclass types expect one of|a class path \(str\)|a dict with"
)


def brief(message: str) -> str:
    """The cause in jsonargparse's account of everything that it tried, with the keys that lead to it and what to do.

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
    for line in message.strip().splitlines():
        text = re.sub(r"^(- )+", "", line.strip())
        text, _, inline = text.partition('": ') if text.startswith('Parser key "') else (text, "", "")
        text = f'{text}":' if inline else text
        if match := _KEY.match(text):
            keys += [] if causes else [match[1]]
            text = inline
        elif match := _GIVEN_CLASS.match(text):
            owner, text = match[1], ""
        if text and not _NO_CAUSE.match(text):
            causes.append(_advice(text, owner))
    where = ".".join(keys)
    what = " ".join(dict.fromkeys(causes)) or message.strip()
    return f"{where}: {what}" if where else what


def _advice(text: str, owner: str) -> str:
    """The cause of a refusal in words of its own, with the way out."""
    text = re.sub(r"^Type .+? expects a function or a callable class: ", "", text)
    if match := re.fullmatch(r"Expected a dot import path string: (.+)", text):
        return f"no class named {match[1]!r}: give its import path, module.Class, or the name of a class of this package"
    if match := re.fullmatch(r"Expected an instantiatable class, but (\S+) is abstract", text):
        missing = sorted(getattr(_find(match[1]), "__abstractmethods__", ()))
        return f"{match[1]} is abstract: define {', '.join(missing)} in it"
    if match := re.fullmatch(r"Option '(.+?)' is not accepted", text):
        options = list(inspect.signature(_find(owner)).parameters) if owner else []
        return f"option {match[1]!r} is not accepted" + (f" by {owner}" if owner else "") + did_you_mean(match[1], options)
    if match := re.fullmatch(r"the following arguments are required: (.+)", text):
        return f"missing: {match[1]}" + (f" (of {owner})" if owner else "")
    return text


def did_you_mean(word: str, options: list[str]) -> str:
    """A suggestion to append to an error, or nothing.

    >>> did_you_mean("studnet_lr", ["student_lr", "auxiliary_lr"])
    "; did you mean 'student_lr'?"
    """
    close = difflib.get_close_matches(word, options, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def about(command: Callable[..., None]) -> str:
    """What a command's docstring says before its arguments, for --help.

    >>> about(print).splitlines()[0][:6]
    'Prints'
    """
    return (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]


class BriefErrors(ArgumentParser):
    """An ArgumentParser whose errors are the error, not the list of every flag, and that takes lists as one writes them.

    `--classes 1 3` is `--classes [1,3]`, and `--npz` alone is `--npz true`.
    """

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_args(spelled_out(list(words), self._option_string_actions), *others, **named)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        text = brief(message)
        if match := re.fullmatch(r"unrecognized arguments: (\S+?)((=| ).*)?", text):
            text = f"unknown option {match[1]}" + did_you_mean(match[1], list(self._option_string_actions))
        verb = sys.argv[1]
        print(f"freeflow {verb}: {text}\n(freeflow {verb} --help lists the options)", file=sys.stderr)
        sys.exit(2)


def spelled_out(words: list[str], options: dict[str, Any]) -> list[str]:
    """Command-line words with lists and switches written as jsonargparse reads them, given its options by name."""
    done: list[str] = []
    rest = iter([*words, "--"])
    word = next(rest)
    while word != "--":
        kind = _kind(options.get(word))
        values, following = [], next(rest, "--")
        while kind and following != "--" and not re.match(r"--?[A-Za-z]", following):
            values.append(following)
            following = next(rest, "--")
        done.append(word)
        if kind == "list" and values:
            done.append(values[0] if len(values) == 1 and values[0].startswith("[") else f"[{','.join(values)}]")
        elif kind == "switch":
            done += values or ["true"]
        word = following
    return done


def _kind(action: Any) -> str | None:
    """ "list" or "switch" for options that are always such (beside None)."""
    hint = getattr(action, "_typehint", None)
    if hint is bool:
        return "switch"
    parts = [hint] if get_origin(hint) in (list, Sequence) else [part for part in get_args(hint) if part is not type(None)]
    return "list" if parts and all(get_origin(part) in (list, Sequence) for part in parts) else None
