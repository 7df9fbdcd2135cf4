"""The words of a command line, written as jsonargparse reads them."""

import re
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from freeflow_lightning.commands.yaml_settings import INFINITY, whole_number

_OPTION = re.compile(r"--?[A-Za-z]")
_NUMBERS = re.compile(r"[-+.\deE]+(,[-+.\deE]+)+")


def spell_out(words: list[str], options: dict[str, Any]) -> list[str]:
    """Spell out the lists, switches and infinities of a command line, given its options by name.

    An option that is not among the options is a setting of a class that the config names: several
    words or numbers with commas are a list.

    >>> spell_out(["--model.guidance_range", "1", "2", "--a=0.9,0.99", "--steps", "inf"], {})
    ['--model.guidance_range', '[1,2]', '--a=[0.9,0.99]', '--steps', '.inf']

    Hyphens in the name of an option stand for underscores:

    >>> spell_out(["--ema-length=0.1"], {"--ema_length": None})
    ['--ema_length=0.1']
    """
    done: list[str] = []
    position = 0
    while position < len(words):
        word, position = words[position], position + 1
        name, joined, value = word.partition("=")
        if not _OPTION.match(word):
            done.append(word)
            continue
        underscored = f"--{name[2:].replace('-', '_')}"
        name = underscored if underscored in options else name
        values = [value] if joined else []
        while not joined and position < len(words) and is_value(words[position]):
            values.append(words[position])
            position += 1
        spelled = (
            _spell_values(values, options[name]) if name in options else _spell_by_looks(values)
        )
        # argparse takes -.inf for an option
        if joined or (len(spelled) == 1 and spelled[0].startswith("-.")):
            done.append(f"{name}={spelled[0]}")
        else:
            done += [name, *spelled]
    return done


def left_empty(words: Sequence[str]) -> str | None:
    """Return the first option whose value is empty, as that of an unset variable is, or the word's
    place where no option stands before it; settings of classes (--NAME.NAME) may be.

    >>> left_empty(["--num_samples", "4", "--output", ""]), left_empty(["--output="]), left_empty([""])
    ('--output', '--output', 'argument 1')
    >>> left_empty(["--output", "here", "--trainer.logger.name", ""])
    """
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        name, joined, value = word.partition("=")
        if _OPTION.match(word):
            if joined and not value.strip() and "." not in name:
                return name
        elif not word.strip():
            if not _OPTION.match(before):
                return f"argument {position + 1}"
            if "." not in before:
                return before
    return None


def as_list(words: list[str], key: str, value: str) -> list[str]:
    """Return the words with the value of an option as a list of one; the option ends as the key
    does.

    >>> as_list(["fit", "--callbacks.decays=0.9", "--callbacks.decays", "0.9"], "callbacks.decays", "0.9")
    ['fit', '--callbacks.decays=[0.9]', '--callbacks.decays', '[0.9]']
    """
    return _with_value(words, key, lambda word: f"[{word}]" if word == value else word)


def as_integer(words: list[str], key: str, value: str) -> list[str]:
    """Return the words with an option's 1e4 as 10000, where `value` says which number it is.

    >>> as_integer(["fit", "--data.length", "1e4", "--name=1e4"], "data.length", "10000.0")
    ['fit', '--data.length', '10000', '--name=1e4']
    """

    def spell(word: str) -> str:
        number = whole_number(word)
        return number if number is not None and float(number) == float(value) else word

    return _with_value(words, key, spell)


def _with_value(words: list[str], key: str, spell: Callable[[str], str]) -> list[str]:
    """Return the words with the values of an option spelled otherwise; the option ends as the key
    does.
    """
    option = rf"--(\S+\.)?{re.escape(key.rpartition('.')[2])}"
    done: list[str] = []
    for word in words:
        name, joined, value = word.partition("=")
        if joined and re.fullmatch(option, name):
            done.append(f"{name}={spell(value)}")
        elif done and re.fullmatch(option, done[-1]):
            done.append(spell(word))
        else:
            done.append(word)
    return done


def is_value(word: str) -> bool:
    """Return whether a word is a value rather than an option; -1 and -inf are values.

    >>> is_value("-1"), is_value("-inf"), is_value("--npz")
    (True, True, False)
    """
    return not _OPTION.match(word) or bool(INFINITY.fullmatch(word))


def _spell_values(values: list[str], action: Any) -> list[str]:
    """Return the values of an option whose type is known."""
    kind = fixed_kind(action)
    if kind == "list" and values:
        return [_bracket(values)]
    if kind == "switch":
        return values or ["true"]
    hint = getattr(action, "_typehint", None)
    hints = (hint, *get_args(hint))
    if len(values) > 1:
        return [_bracket(values)] if any(map(_is_list, hints)) else values
    return values if str in hints else _spell_by_looks(values)


def _spell_by_looks(values: list[str]) -> list[str]:
    """Return the values of an option whose type only its class knows."""
    if len(values) > 1 or (values and _NUMBERS.fullmatch(values[0])):
        return [_bracket(values)]
    return [_with_dot(value) for value in values]


def _bracket(values: list[str]) -> str:
    """Values as one YAML list; a list stays as it is."""
    if len(values) == 1 and values[0].startswith("["):
        return values[0]
    return f"[{','.join(value.rstrip(',') for value in values)}]"


def _with_dot(value: str) -> str:
    """Infinity as YAML spells it; any other value as it is."""
    match = INFINITY.fullmatch(value)
    return f"{match[1]}.inf" if match else value


def fixed_kind(action: Any) -> str | None:
    """ "list" or "switch" for options that are always such (beside None)."""
    hint = getattr(action, "_typehint", None)
    if hint is bool or bool in get_args(hint):
        return "switch"
    parts = (
        [hint] if _is_list(hint) else [part for part in get_args(hint) if part is not type(None)]
    )
    return "list" if parts and all(map(_is_list, parts)) else None


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, tuple, Sequence)
