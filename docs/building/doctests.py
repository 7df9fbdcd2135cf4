"""What griffe reads of a docstring: its doctests become code, wherever they stand in it."""

import re

import griffe

DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\n).*)*)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences the doctests of every docstring (mkdocstrings: extensions in mkdocs.yml)."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = fence(obj.docstring.value)


def fence(docstring: str) -> str:
    """Return a docstring with a fence around each doctest.

    >>> print(fence("Adds.\\n\\n>>> 1 + 1\\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return DOCTEST.sub(r"```pycon\n\1\n```", docstring)
