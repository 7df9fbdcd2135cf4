"""freeflow completion: a script with which a shell completes verbs and options."""

import argparse
import ast
from functools import partial
from typing import Literal

import shtab

from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.static_help import Chapters, Option, read_chapters
from freeflow_lightning.commands.views.fit_help import fit_chapters


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that lets a shell complete the verbs and options of freeflow.

    In ~/.bashrc: eval "$(freeflow completion bash)". In ~/.zshrc, after compinit: eval "$(freeflow
    completion zsh)". For fish: freeflow completion fish >
    ~/.config/fish/completions/freeflow.fish.

    Args:
        shell: which one.
    """
    print(shtab.complete(build_parser(), shell))


def build_parser() -> argparse.ArgumentParser:
    """Return all verbs with their options as one parser, to be completed and not to be run."""
    from freeflow_lightning.commands.main import VERBS  # noqa: PLC0415 (which knows this verb)

    parser = argparse.ArgumentParser("freeflow")
    verbs = parser.add_subparsers()
    for verb, (module, about) in VERBS.items():
        is_lightnings = verb in ("fit", "validate")
        chapters = fit_chapters() if is_lightnings else read_chapters(module, verb)
        add_options(verbs.add_parser(verb, help=about), chapters)
    return parser


def add_options(parser: argparse.ArgumentParser, chapters: Chapters) -> None:
    """Add the options of a verb: the words of a Literal are completed, any other text as a path."""
    for _, options in chapters:
        for option in options:
            words = choices_of(option)
            action = parser.add_argument(f"--{option.name}", choices=words)
            if words is None:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab looks for


def choices_of(option: Option) -> list[str] | None:
    """Return the words that an option may be; None for one that may be others too.

    >>> choices_of(Option("method", "one of ['euler', 'heun']", "'heun'", ""))
    ['euler', 'heun']
    """
    if not option.kind.startswith("one of ") or " or " in option.kind:
        return None
    return [str(word) for word in ast.literal_eval(option.kind.removeprefix("one of "))]


main = partial(run, completion)
