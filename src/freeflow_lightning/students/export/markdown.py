"""Words from outside in Markdown: shown as they are, whatever they hold."""

import html
import re
from typing import Any


def plain(text: Any) -> str:
    r"""Text that Markdown, and HTML inside it, show as it is, on one line.

    >>> plain("MIT | <img src=x onerror=alert(1)> [click](http://a.b)\n# a")
    'MIT \\| &lt;img src=x onerror=alert(1)&gt; \\[click\\](http://a.b) # a'
    >>> plain("ema_0_9999, ./runs/my_run")
    'ema_0_9999, ./runs/my_run'
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = html.escape(" ".join(printable.split()), quote=False)
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda found: f"\\{found[0]}", line)


def fenced(text: str, language: str) -> list[str]:
    """Lines of a code block that the text cannot end."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max([3, *(n + 1 for n in runs)])
    return [f"{fence}{language}", text, fence]
