"""A self-contained HTML page of findings, figures and explanations; its pictures are inside the
file.
"""

import base64
from collections.abc import Sequence
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
    """A heading, how to read what follows, figures (or the bytes of their PNG), and a table (header
    first) if there is one.
    """

    title: str
    text: str
    figures: Sequence[Figure | bytes]
    table: list[list[str]]


def page(title: str, about: str, findings: Sequence[Finding], sections: Sequence[Section]) -> str:
    """Return the page, in which every word is shown as it is."""
    return _render("page.html", title, about, findings, sections)


def fragment(
    title: str, about: str, findings: Sequence[Finding], sections: Sequence[Section]
) -> str:
    """Return the same for a notebook's output."""
    return _render("fragment.html", title, about, findings, sections)


def in_base64(picture: bytes) -> str:
    """Return a PNG as a page holds it."""
    return base64.b64encode(picture).decode()


def _render(
    template: str,
    title: str,
    about: str,
    findings: Sequence[Finding],
    sections: Sequence[Section],
) -> str:
    environment = templates(__package__)
    environment.filters["png"] = _png
    return environment.get_template(template).render(
        title=title,
        about=about,
        findings=findings,
        sections=sections,
        marks=MARKS,
    )


def _png(figure: Figure | bytes) -> str:
    return in_base64(figure if isinstance(figure, bytes) else plots.png(figure))
