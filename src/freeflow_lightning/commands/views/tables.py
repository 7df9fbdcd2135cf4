"""A table of words, and how it looks on screen, in Markdown and in HTML."""

from collections.abc import Sequence
from io import StringIO
from typing import NamedTuple

from rich import table as rich_table
from rich.console import Console

from freeflow_lightning.students.export.markdown import plain
from freeflow_lightning.students.export.templates import templates

WIDTH = 100
"""Columns of the text where no terminal says another number."""


class Table(NamedTuple):
    """Words in rows below a header, as they are; a row may be longer than the header, where its
    last cells are told elsewhere.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def cells(self) -> list[list[str]]:
        """Return the rows, each as long as the header."""
        return [list(row[: len(self.header)]) for row in self.rows]


def table_text(tables: Sequence[Table], width: int = WIDTH) -> str:
    """Return the tables as text without colours.

    >>> "FID" in table_text([Table("scores", ["", "value"], [["FID", "2.1"]])])
    True
    """
    console = Console(file=StringIO(), width=width, color_system=None)
    for each in tables:
        console.print(rich_of(each))
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def print_tables(tables: Sequence[Table]) -> None:
    """Print the tables, in a terminal in its colours and width."""
    console = Console()
    for each in tables:
        console.print(rich_of(each))


def rich_of(table: Table) -> rich_table.Table:
    """Return the table as rich draws it."""
    drawn = rich_table.Table(*table.header, title=table.title)
    for row in table.cells():
        drawn.add_row(*row)
    return drawn


def table_markdown(table: Table) -> list[str]:
    """Return the lines of the table in Markdown, without its title.

    >>> table_markdown(Table("", ["a", "b"], [["1", "2"]]))
    ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    lines = [table.header, ["---"] * len(table.header), *table.cells()]
    return [f"| {' | '.join(plain(cell) for cell in cells)} |" for cells in lines]


def tables_html(tables: Sequence[Table], note: str = "", pictures: Sequence[str] = ()) -> str:
    """Return the tables for a notebook's output, in which every word is shown as it is.

    Args:
        tables: one below the other.
        note: a line under them.
        pictures: PNG files in base64, under all.
    """
    page = templates("freeflow_lightning.commands.views").get_template("tables.html")
    return page.render(tables=tables, note=note, pictures=pictures)
