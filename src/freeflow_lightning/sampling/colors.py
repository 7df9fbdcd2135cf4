"""The colours of lines and points: teacher and student have the same ones in every picture."""

import re
from collections.abc import Sequence

STUDENT, TEACHER = "#d1495b", "#30638e"
OTHERS = ("#edae49", "#66a182", "#8d6a9f", "#00a6a6", "#a5673f", "#f08cae", "#7f8c8d", "#2b2d42")
"""Of what is neither, in turn."""
NEITHER = "#777777"
"""Of a level that is neither's."""


def color_of(name: str, other: str) -> str:
    """Return the colour of a line by its name; `other` where it names no side, or both.

    >>> color_of("teacher, 64 heun steps", "gray") == TEACHER, color_of("fid/student", "gray") == STUDENT
    (True, True)
    >>> color_of("auxiliary", "gray")
    'gray'
    """
    words = set(re.split(r"[^a-z]+", name.lower()))
    is_teacher = bool({"teacher", "floor"} & words)  # the floor is the teacher against itself
    if is_teacher == ("student" in words):
        return other
    return TEACHER if is_teacher else STUDENT


def colors_of(names: Sequence[str]) -> list[str]:
    """Return a colour for each of several lines in one picture: the first of a side has the side's.

    >>> colors_of(["student", "teacher", "auxiliary", "student, after"]) == [
    ...     STUDENT, TEACHER, OTHERS[0], OTHERS[1]
    ... ]
    True
    """
    found: list[str] = []
    others = 0
    for name in names:
        color = color_of(name, "")
        if not color or color in found:
            color = OTHERS[others % len(OTHERS)]
            others += 1
        found.append(color)
    return found
