"""What mkdocs does to a page's HTML: formulas become MathML, and long names in tables may be broken.

MathML is rendered by the browser itself: no page asks another server for a script. mkdocs calls
`on_page_content` (hooks in mkdocs.yml).
"""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)
"""What arithmatex leaves of $...$ and $$...$$."""
CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
WORDS = re.compile(r"<code>[^<]*</code>")
"""Code in a line of text."""
OPTION = re.compile(r"(?<![\w-])--[^\W_]+")
"""The beginning of an option, which browsers would break after its hyphens."""
LABEL = re.compile(r"\b(Eq\.|Eqs\.|Fig\.|Sec\.|App\.|Table) (\w)")
JOINT = re.compile(r"(?<=[\w>])(::|[._/])(?=\w)")


def on_page_content(content: str, **_: object) -> str:
    """Return a page's HTML as the site shows it."""
    content = FORMULA.sub(render_formula, content)
    content = WORDS.sub(keep_options, content)
    return CELL.sub(break_names, content)


def render_formula(found: re.Match[str]) -> str:
    """Return the MathML of one formula, in a line of text or on a line of its own."""
    display = "block" if found["open"] == "[" else "inline"
    return convert(html.unescape(found["latex"]).strip(), display=display)


def keep_options(code: re.Match[str]) -> str:
    """Return code whose options stay on the line that they begin on."""
    return OPTION.sub(r'<span class="option">\g<0></span>', code[0])


def break_names(cell: re.Match[str]) -> str:
    """Return a table's cell whose code may be broken at its joints, and whose "Eq. 9" and "6.9 ± 0.1"
    may not.
    """
    text = LABEL.sub(r"\1&nbsp;\2", cell[0]).replace(" ± ", "&nbsp;±&nbsp;")
    return CODE.sub(lambda code: JOINT.sub(r"\1<wbr>", code[0]), text)
