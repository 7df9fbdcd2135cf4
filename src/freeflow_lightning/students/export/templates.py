"""Pages, reports and cards from Jinja2 templates, in which every word from outside is shown as it
is.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from freeflow_lightning.students.export.markdown import plain


def templates(package: str) -> Environment:
    """Return the templates in a package's folder `templates`.

    Values are escaped for HTML; `plain` escapes them for Markdown, and HTML inside it.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["plain"] = _plain
    return environment


def _plain(text: Any) -> Markup:
    return Markup(plain(text))
