"""The examples of docs/extending.md run as they stand: their files are written, then their lines."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from freeflow_lightning.commands.main import VERBS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
SMALL = [
    *(
        "--trainer.callbacks=[]",
        "--trainer.max_steps=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
    ),
    *("--data.batch_size=4", "--data.length=2", "--data.val_samples=8", "--data.val_batch_size=4"),
]
"""What makes a run of the page's config short."""


def words_of(line):
    """The words after `freeflow`, the config found in this repository and the run made short."""
    program, *words = shlex.split(line)
    assert program == "freeflow"
    if "--config" in words:
        place = words.index("--config") + 1
        words[place : place + 1] = [str(ROOT / words[place]), *SMALL]
    return words


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_runs(title, freeflow, checkpoint, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(VERBS, "count", VERBS["inspect"])  # taken back after the test
    shutil.copy(checkpoint, "last.ckpt")
    blocks = BLOCK.findall(SECTIONS[title])
    for language, name, text in blocks:
        if name:
            Path(name).write_text(text)
        elif language == "python":
            exec(text, {})
        else:
            code, out, err = freeflow(*words_of(text))
            assert code == 0, err
            assert title != "A command" or re.search(r"^\d+ parameters$", out, re.MULTILINE)
    (file,) = [name for _, name, _ in blocks if name]
    assert sys.modules.pop(file.removesuffix(".py"), None) is not None  # the line has used the file


def test_every_part_of_the_package_has_an_example():
    kinds = {
        "recipe",
        "objective",
        "teacher",
        "metric",
        "feature network",
        "command",
        "callback",
        "one-step rule",
    }
    assert {re.sub(r"^An? ", "", title) for title in SECTIONS} == kinds
