"""A self-contained HTML page of findings, figures and explanations; its pictures are inside the
file.
"""

import base64
from typing import NamedTuple

from matplotlib.figure import Figure

from freeflow_lightning.sampling import plots
from freeflow_lightning.students.export.templates import templates

MARKS = {"good": "\u2713 fine", "look": "\u25b2 look", "plain": "\u00b7"}


class Finding(NamedTuple):
    """One line at the top: how it stands ("good", "look" or "plain"), and what was found in a
    sentence.
    """

    mark: str
    title: str
    text: str


class Section(NamedTuple):
    """A heading, how to read what follows, figures, and a table (header first) if there is one."""

    title: str
    text: str
    figures: list[Figure]
    table: list[list[str]]


def page(title: str, about: str, findings: list[Finding], sections: list[Section]) -> str:
    """The page, in which every word is shown as it is."""
    environment = templates(__package__)
    environment.filters["png"] = _png
    return environment.get_template("page.html").render(
        title=title,
        about=about,
        findings=findings,
        sections=sections,
        marks=MARKS,
    )


def _png(figure: Figure) -> str:
    return base64.b64encode(plots.png(figure)).decode()
