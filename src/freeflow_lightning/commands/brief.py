"""What is wrong with a setting, in a line: jsonargparse's account of all that it tried, cut down to
the cause.
"""

import difflib
import importlib
import inspect
import re
from typing import Any

_KEY = re.compile(r'Parser key "(.+?)":$')
_GIVEN_CLASS = re.compile(r"Problem with given class_path '(.+?)':$")
_GIVEN = re.compile(r"^ *Given value: (.*)", re.MULTILINE)
_OF_NO_CLASS = re.compile(r"Not a valid subclass of (\w+)\. Got value: (.*)")
_CHOICES = re.compile(r"Expected a typing\.Literal\[(.*)\](?:\. Got value: (.*))?")
_WITHOUT_VALUE = re.compile(r"Expected a <class '(?!NoneType).+?'>")
"""Of a setting that may be None: jsonargparse tells its value in a line of its own."""
_NO_CAUSE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>"
    r"|Expected a path but |Not a valid subclass of |Subclass types expect one of|a class path \(str\)|a dict with"
)

_FIND = "run in its folder, set PYTHONPATH, or install it"
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
    choices: list[str] = []
    came = ""
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
        if match := _CHOICES.fullmatch(text):
            choices += match[1].replace("'", "").split(", ")
            came, text = match[2] or (given[1] if given else ""), ""
        if given and _WITHOUT_VALUE.fullmatch(text):
            text = f"{text}. Got value: {given[1]}"
        if text and not _NO_CAUSE.match(text):
            causes.append(_advice(text, owner))
    if not causes and (match := _OF_NO_CLASS.search(message)):
        causes.append(f"expected a {match[1]}, got {match[2]}")
    if choices:
        causes.insert(0, f"expected one of {', '.join(dict.fromkeys(choices))}, got {came!r}")
    where = ".".join(keys)
    what = " ".join(dict.fromkeys(causes)) or message.strip()
    what = re.sub(r"^\[Errno \d+\] ", "", what)
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]} ..."
    return f"{where}: {what}" if where else what


def _advice(text: str, owner: str) -> str:
    """Return the cause of a refusal in words of its own, with the way out."""
    text = re.sub(r"^Type .+? expects a function or a callable class: ", "", text)
    text = re.sub(r"^No module named ('[\w.]+')$", rf"no module named \1: {_FIND}", text)
    text = _EXPECTED_CLASS.sub(_expected_kind, text)
    if match := re.fullmatch(r"(Problems parsing|Unexpected) config: *(.*)", text):
        is_read = match[1] == "Unexpected"
        why = f"expected settings by name, got {match[2] or 'nothing'}" if is_read else match[2]
        return f"the config cannot be read: {why}"
    if match := re.fullmatch(r"Expected a dot import path string: *(.*)", text):
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


def did_you_mean(word: str, options: list[str], alike: str = "") -> str:
    """Return a suggestion to append to an error, or nothing; what all words begin with makes none
    `alike`.

    >>> did_you_mean("studnet_lr", ["student_lr", "auxiliary_lr"])
    "; did you mean 'student_lr'?"
    """
    ends = {option[len(alike) :]: option for option in options}
    close = difflib.get_close_matches(word[len(alike) :], ends, 1)
    return f"; did you mean {ends[close[0]]!r}?" if close else ""


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
