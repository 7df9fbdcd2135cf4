"""What freeflow fit --help shows: the settings of the method first, then the data's, then the
Trainer's commonest.
"""

import re

from freeflow_lightning.commands.parser import BriefErrors
from freeflow_lightning.commands.static_help import Chapters, Option, format_help, read_class

USAGE = """freeflow {verb} --config CONFIG [--model.NAME VALUE] [--data.NAME VALUE] [--trainer.NAME VALUE] ...

for example
       freeflow {verb} --config digits {example}"""
EXAMPLES = {
    "fit": "--model.student_lr 1e-4 --trainer.max_steps 2000",
    "validate": "--ckpt_path last",
}
"""What a verb is given beside a config."""
MORE = """
more help
  freeflow {verb} --model.help [CLASS]   all of a recipe's settings, of FreeFlowModule if none is named
  freeflow {verb} --model.teacher.help CLASS   of a teacher, such as SiTTeacher
  freeflow {verb} --data.help [CLASS]    all of the data's settings
  freeflow {verb} --trainer.help         all of Lightning's Trainer
  freeflow {verb} --config CONFIG --print_config   every setting with its value
"""
DEFAULTS = {
    "--model.help": ("freeflow_lightning.recipes.freeflow", "FreeFlowModule"),
    "--data.help": ("freeflow_lightning.training.data", "PriorDataModule"),
}
"""What is explained where no class is named: module and class."""
RUN = [
    Option(
        "config",
        "str",
        "None",
        "a YAML file of settings, or a name of `freeflow configs`; several are laid over each "
        "other",
    ),
    Option(
        "ckpt_path",
        "str",
        "None",
        "the checkpoint to go on from, or to validate; last for the newest of this config",
    ),
    Option("seed_everything", "int", "0", "the seed of all that is drawn"),
]
"""Options beside model, data and Trainer."""
PART = re.compile(r"^--(model|data)\.(?!init_args\.)(.+)\.help$")
"""Asks for the help of a part of the model or the data."""
COMMON = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "logger",
    "callbacks",
    "max_steps",
    "val_check_interval",
    "log_every_n_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "default_root_dir",
)
"""Of the Trainer's settings, those that a distillation changes."""


def help_of(verb: str, words: list[str]) -> str | None:
    """Return the page that the words of a command line ask for; None if they ask for none of
    these.
    """
    if {"-h", "--help"} & set(words):
        return short_help(verb)
    if "--trainer.help" in words:
        return trainer_help(verb)
    return None


def trainer_help(verb: str) -> str:
    """Return all of the Trainer's settings."""
    from lightning.pytorch import Trainer  # noqa: PLC0415 (the other pages do not wait for it)

    usage = f"freeflow {verb} [--trainer.NAME VALUE] ..."
    parser = BriefErrors(prog="freeflow", usage=usage, description="Lightning's Trainer.")
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False)
    return str(parser.format_help())


def short_help(verb: str) -> str:
    """Return the options that a distillation is made of, in chapters, read from the source."""
    about = {
        "fit": "Distil a teacher into a one-step student, or train another recipe, from a config.",
        "validate": "Validate a checkpoint as training does: the callbacks of the config measure and draw.",
    }
    page = format_help(USAGE.format(verb=verb, example=EXAMPLES[verb]), about[verb], fit_chapters())
    return page + MORE.format(verb=verb)


def fit_chapters() -> Chapters:
    """Return the chapters of that page: the run, the model, the data and the Trainer."""
    trainer = read_class("lightning.pytorch.trainer.trainer", "Trainer", "trainer")
    common = [option for option in trainer if option.name.partition(".")[2] in COMMON]
    return [
        ("the run", RUN),
        ("the model: FreeFlowModule", read_class(*DEFAULTS["--model.help"], "model")),
        ("the data: PriorDataModule", read_class(*DEFAULTS["--data.help"], "data")),
        ("the Trainer", common),
    ]


def name_classes(words: list[str]) -> list[str]:
    """Return the words, with the class that --model.help and --data.help explain where they name
    none.

    Help of a part, --model.teacher.help, is spelled as the parser spells it.

    >>> name_classes(["--config", "a.yaml", "--data.help"])[-1]
    'freeflow_lightning.training.data.PriorDataModule'
    >>> name_classes(["--model.teacher.help", "SiTTeacher"])
    ['--model.init_args.teacher.help', 'SiTTeacher']
    """
    named: list[str] = []
    for position, word in enumerate(words):
        named.append(PART.sub(r"--\1.init_args.\2.help", word))
        following = words[position + 1 : position + 2]
        if word in DEFAULTS and (not following or following[0].startswith("-")):
            named.append(".".join(DEFAULTS[word]))
    return named
