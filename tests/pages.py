"""What stands on the pages of the README and the site: blocks of code, and command lines."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from places import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(freeflow [a-z][^`]*)`(?!`)")


class Block(NamedTuple):
    """A block of code: what it is written in, the file that it is to be saved as, its text."""

    language: str
    title: str
    text: str


class Line(NamedTuple):
    """A command line, its words without the comment, and whether it says that it fails."""

    words: list[str]
    fails: bool


def pages_in_order() -> list[Path]:
    """The pages of the site as mkdocs.yml lists them, without those of the API."""
    names = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    return [DOCS / name for name in names]


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def lines_of(block: Block) -> list[Line]:
    """The command lines of a block of bash, those that go on after a backslash joined."""
    joined = block.text.replace("\\\n", " ").splitlines()
    lines = [Line(shlex.split(line, comments=True), "# exits with 1" in line) for line in joined]
    return [line for line in lines if line.words]


def inline_commands(page: Path) -> list[list[str]]:
    """The words of the commands that stand within text and tables."""
    text = FENCE.sub("", page.read_text())
    return [found.replace("\n", " ").split() for found in INLINE.findall(text)]


def is_for_freeflow(line: Line) -> bool:
    return line.words[0] in ("freeflow", "torchrun")


def words_after_freeflow(line: Line) -> list[str]:
    """The verb and its words; of torchrun what it hands to the module that it runs."""
    if line.words[0] == "freeflow":
        return line.words[1:]
    return line.words[line.words.index("-m") + 2 :]
