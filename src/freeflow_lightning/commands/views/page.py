"""A self-contained HTML page of findings, figures and explanations; its pictures are inside the file."""

import base64
import html
import io
from typing import NamedTuple

from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem }
p { margin: .3rem 0 .6rem; max-width: 50rem } .about { color: #666; font-size: .9rem }
table { border-collapse: collapse; margin: .6rem 0 } td, th { border-bottom: 1px solid #ddd; padding: .3rem .8rem .3rem 0;
text-align: left; vertical-align: top } img { max-width: 100% }
.mark { white-space: nowrap; font-weight: 600 } .good { color: #2a7f3b } .look { color: #b3541e } .plain { color: #666 }
"""
MARKS = {"good": "\u2713 fine", "look": "\u25b2 look", "plain": "\u00b7"}


class Finding(NamedTuple):
    """One line at the top: how it stands ("good", "look" or "plain"), and what was found in a sentence."""

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
    """The page."""
    escape = html.escape
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>',
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>',
        "<table>",
    ]
    for found in findings:
        mark = f'<td class="mark {found.mark}">{MARKS[found.mark]}</td>'
        lines.append(f"<tr>{mark}<td><b>{escape(found.title)}</b></td><td>{escape(found.text)}</td></tr>")
    lines.append("</table>")
    for section in sections:
        lines.append(f"<h2>{escape(section.title)}</h2><p>{escape(section.text)}</p>")
        lines += [f'<img alt="{escape(section.title)}" src="data:image/png;base64,{_png(f)}">' for f in section.figures]
        if section.table:
            cells = [
                [f"<{'td' if i else 'th'}>{escape(cell)}</{'td' if i else 'th'}>" for cell in row]
                for i, row in enumerate(section.table)
            ]
            lines += ["<table>", *("<tr>" + "".join(row) + "</tr>" for row in cells), "</table>"]
    return "\n".join([*lines, "</body></html>", ""])


def _png(figure: Figure) -> str:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, facecolor="white")
    return base64.b64encode(written.getvalue()).decode()
