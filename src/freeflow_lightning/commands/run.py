"""A verb is a function: its parameters are the options of the command line, its docstring is the
help.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import Namespace

from freeflow_lightning.commands.parser import BriefErrors
from freeflow_lightning.training.quiet import quiet

OF_A_CONFIG = ("--model.", "--data.", "--trainer.")
"""What begins so changes a config of `freeflow fit`, for the verbs that read one: those with
`overrides`.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that several verbs share: a verb takes them as one object, the command line field by
    field.
    """


def run(
    verb: Callable[..., None], *, usage: str | None = None, short_names: Mapping[str, str] = {}
) -> None:
    """Call a verb with the options of the command line.

    Args:
        verb: the function; a parameter that is an Options stands for its fields.
        usage: shown by --help in place of the list of all options.
        short_names: words that stand for longer ones, such as the name of a class for its path.
    """
    quiet()
    words = [short_names.get(word, word) for word in sys.argv[2:]]
    parser = parser_of(verb, usage)
    parameters = inspect.signature(verb).parameters
    shared = options_of(verb)
    overrides: dict[str, list[str]] = {}
    if "overrides" in parameters:
        words, overrides["overrides"] = split_overrides(words)
    parsed = parser.parse_args(name_main_option(words, verb))
    data = {name: as_dicts(parsed.pop(name)) for name in data_options(verb)}
    values = vars(parser.instantiate(parsed)) | data
    values = {name: value for name, value in values.items() if name in names_of(verb)}
    objects = {}
    for name, kind in shared.items():
        objects[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
    verb(**objects, **values, **overrides)


def parser_of(verb: Callable[..., None], usage: str | None = None) -> BriefErrors:
    """Return the parser of a verb: chapters of options in the order of its parameters, one for its
    own.
    """
    shared = options_of(verb)
    parser = BriefErrors(
        prog=f"freeflow {verb.__name__}", usage=usage, description=describe_verb(verb)
    )
    if "config" not in names_of(verb):
        parser.add_argument("--config", action="config", help="a YAML file of options")
    own = None
    for name in inspect.signature(verb).parameters:
        if name in shared:
            parser.add_class_arguments(shared[name], None)
        elif own is None:
            own = parser.add_argument_group(f"of {verb.__name__}")
            own.add_function_arguments(verb, as_group=False, skip={*shared, "overrides"})
    return parser


def options_of(verb: Callable[..., None]) -> dict[str, type[Options]]:
    """Return the parameters of a verb that stand for shared options."""
    hints = get_type_hints(verb)
    return {
        name: kind
        for name, kind in hints.items()
        if inspect.isclass(kind) and issubclass(kind, Options)
    }


def data_options(verb: Callable[..., None]) -> list[str]:
    """Return the verb's options that are dicts: what they name by class_path is not made."""
    hints = get_type_hints(verb)
    for kind in options_of(verb).values():
        hints |= get_type_hints(kind)
    kinds = {name: (hint, *get_args(hint)) for name, hint in hints.items()}
    return [
        name for name in names_of(verb) if any(get_origin(kind) is dict for kind in kinds[name])
    ]


def as_dicts(value: Any) -> Any:
    """Return a parsed value as dicts and lists.

    >>> as_dicts(Namespace(net=Namespace(width=8), sizes=[Namespace(a=1)]))
    {'net': {'width': 8}, 'sizes': [{'a': 1}]}
    """
    parts = vars(value) if isinstance(value, Namespace) else value
    if isinstance(parts, dict):
        return {name: as_dicts(part) for name, part in parts.items()}
    return [as_dicts(part) for part in parts] if isinstance(parts, list) else parts


def names_of(verb: Callable[..., None]) -> dict[str, bool]:
    """Return the verb's options in the order of its parameters, and whether each must be given."""
    shared = options_of(verb)
    names: dict[str, bool] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in shared:
            names |= {field.name: field.default is MISSING for field in fields(shared[name])}
        else:
            names[name] = parameter.default is parameter.empty
    return names


def name_main_option(words: list[str], verb: Callable[..., None]) -> list[str]:
    """Return the words, with the name of the verb's main option before a first word that has none.

    The main option is the first that must be given, or the first of all where none must.

    >>> def sample(seed: int = 0, *, checkpoint: str) -> None: ...
    >>> name_main_option(["last.ckpt", "--seed", "1"], sample)
    ['--checkpoint', 'last.ckpt', '--seed', '1']
    """
    if not words or words[0].startswith("-"):
        return words
    names = names_of(verb)
    main = next((name for name, is_required in names.items() if is_required), next(iter(names)))
    return [f"--{main}", *words]


def split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the verb's own words, and those that change its config.

    >>> split_overrides(["w.pt", "--steps", "4", "--model.alpha_ref", "0.6", "--data.batch_size=8"])
    (['w.pt', '--steps', '4'], ['--model.alpha_ref', '0.6', '--data.batch_size=8'])
    """
    own: list[str] = []
    overrides: list[str] = []
    target = own
    for word in words:
        if word.startswith("--"):
            target = overrides if word.startswith(OF_A_CONFIG) else own
        target.append(word)
    return own, overrides


def describe_verb(verb: Callable[..., None]) -> str:
    """Return what a verb's docstring says before its arguments, for --help.

    >>> describe_verb(print).splitlines()[0][:6]
    'Prints'
    """
    return (inspect.getdoc(verb) or "").partition("\n\nArgs:")[0]
