"""The command `freeflow`: one table of verbs; `fit` and `validate` are LightningCLI's, the others
are plain functions.
"""

import errno
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import NoReturn

from freeflow_lightning.commands.brief import brief
from freeflow_lightning.commands.parser import is_foreseen
from freeflow_lightning.commands.static_help import read_help
from freeflow_lightning.commands.views.fit_help import short_help

VERBS = {
    "fit": ("freeflow_lightning.commands.fit", "distil a teacher (or train one) from a config"),
    "validate": ("freeflow_lightning.commands.fit", "evaluate a checkpoint as training does"),
    "inspect": (
        "freeflow_lightning.commands.inspect",
        "check a teacher, and what distilling it costs",
    ),
    "sample": (
        "freeflow_lightning.commands.sample",
        "draw any number of samples from a checkpoint",
    ),
    "evaluate": (
        "freeflow_lightning.commands.evaluate",
        "measure a student against its teacher or given statistics",
    ),
    "compare": (
        "freeflow_lightning.commands.compare",
        "train several methods on one teacher within one budget: table and plot",
    ),
    "reproduce": (
        "freeflow_lightning.commands.reproduce",
        "repeat a claim of the paper on the faces: does it hold?",
    ),
    "diagnose": (
        "freeflow_lightning.commands.diagnose",
        "see where a student goes wrong, in one HTML page",
    ),
    "search": (
        "freeflow_lightning.commands.search",
        "find better noise with the student, for the teacher (inference-time scaling)",
    ),
    "demo": (
        "freeflow_lightning.commands.demo",
        "play with a student in the browser, beside its teacher",
    ),
    "embed": (
        "freeflow_lightning.commands.embed",
        "encode prompts once, for text-to-image and video teachers",
    ),
    "export": (
        "freeflow_lightning.commands.export",
        "a student as a folder, a diffusers pipeline, ONNX; to the hub",
    ),
    "bench": (
        "freeflow_lightning.commands.bench",
        "measure a training step against the evaluations it needs",
    ),
    "report": (
        "freeflow_lightning.commands.report",
        "compare a run's student with its teacher: figures and pictures",
    ),
    "init": (
        "freeflow_lightning.commands.init",
        "write a teacher's file, a config and weights to start from",
    ),
    "configs": (
        "freeflow_lightning.commands.configs",
        "list the configs that come with the package, or print one",
    ),
    "completion": (
        "freeflow_lightning.commands.completion",
        "let bash, zsh or fish complete verbs and options",
    ),
}
"""Verb: (module with a `main`, what it does). Modules are imported only when their verb is called.
"""

WITHOUT_TORCH = ("init", "configs", "completion")
"""Verbs that start at once."""


NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def usage() -> str:
    """Return what `freeflow --help` prints.

    >>> usage().splitlines()[0]
    'usage: freeflow VERB [options]'
    """
    lines = [f"  {verb:<12}{about}" for verb, (_, about) in VERBS.items()]
    return "\n".join(
        [
            "usage: freeflow VERB [options]",
            "",
            "Data-free distillation of flow-matching teachers into one-step flow maps.",
            "",
            *lines,
            "",
            "freeflow VERB --help lists the options of a verb. Start with: freeflow fit --config "
            "digits",
        ]
    )


def main() -> None:
    """Entry point: what `freeflow VERB ...` does, and a quiet end where nobody reads its output."""
    open_closed_streams()
    try:
        answer(sys.argv[1] if len(sys.argv) > 1 else "--help")
        sys.stdout.flush()
    except BrokenPipeError:
        if not has_lost_its_reader():
            raise
        drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is not None or os.environ.get("FREEFLOW_TRACEBACK"):
            raise  # of a file, not of a stream
        print(f"freeflow: the output cannot be written: {error.strerror}", file=sys.stderr)
        drop_output()
        sys.exit(1)


def open_closed_streams() -> None:
    """Let standard streams that the caller has closed lead nowhere: libraries write to them without
    a look, and the next file that is opened would take their place.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (until the end)


def drop_output() -> None:
    """Let what is still to be written, as Python does at its exit, lead nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answer(verb: str) -> None:
    """Print what was asked for, or run a verb."""
    if verb in ("-h", "--help"):
        print(usage())
    elif verb == "--version":
        print(f"freeflow-lightning {version('freeflow-lightning')}")
    elif verb not in VERBS:
        print(
            f"freeflow: unknown verb {verb!r}: expected one of {', '.join(VERBS)} (freeflow "
            f"--help)",
            file=sys.stderr,
        )
        sys.exit(2)
    elif {"-h", "--help"} & set(sys.argv[2:]):
        print(help_of_verb(verb))
    else:
        run_verb(verb)


def run_verb(verb: str) -> None:
    """Run a verb: errors that the package foresees are one message, everything else keeps its
    traceback.
    """
    say_loading(verb)
    sys.path.insert(0, current_folder(verb))  # a teacher defined in a file there is found
    try:
        run: Callable[[], None] = importlib.import_module(VERBS[verb][0]).main
        run()
    except KeyboardInterrupt:
        stop_interrupted(verb)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich's exit where nobody reads
            sys.exit(128 + signal.SIGPIPE)
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        stop_interrupted(verb)  # Lightning's exit after Ctrl-C
    except Exception as error:  # what is not foreseen is raised again
        is_pipe = isinstance(error, BrokenPipeError) and has_lost_its_reader()
        if is_pipe or not is_foreseen(error) or os.environ.get("FREEFLOW_TRACEBACK"):
            raise
        cause = brief(str(error)) or type(error).__name__
        if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
            cause += ": choose a place that you may read and write, or ask for the right to"
        print(f"freeflow {verb}: {cause}\n(FREEFLOW_TRACEBACK=1 shows where)", file=sys.stderr)
        sys.exit(1)


def current_folder(verb: str) -> str:
    """Return the current folder; without one, say so and exit."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        print(
            f"freeflow {verb}: the current folder has been removed: change to another one, or make "
            "it again and enter it (cd .)",
            file=sys.stderr,
        )
        sys.exit(1)


def has_lost_its_reader() -> bool:
    """Return whether standard output is a pipe that was closed, as `| head` does."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def help_of_verb(verb: str) -> str:
    """Return what `freeflow VERB --help` prints, without an import of what the verb needs."""
    if verb in ("fit", "validate"):
        return short_help(verb)
    return read_help(VERBS[verb][0], verb)


def say_loading(verb: str) -> None:
    """Say in a terminal, at once, what the first seconds are spent on."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    if verb not in WITHOUT_TORCH and is_first and sys.stderr.isatty():
        print("loading torch ...", file=sys.stderr, flush=True)


def stop_interrupted(verb: str) -> NoReturn:
    """Say that Ctrl-C ended a verb, and exit with the code that shells expect."""
    print(f"freeflow {verb}: interrupted", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
