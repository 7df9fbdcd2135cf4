"""Counts of network evaluations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluations:
    """Network evaluations: one sample through one network once; a guided velocity counts as many as
    its teacher takes, two for most; a step of the student one.
    """

    student: int = 0
    teacher: int = 0

    @property
    def total(self) -> int:
        """Both networks'."""
        return self.student + self.teacher

    def __add__(self, other: "Evaluations") -> "Evaluations":
        return Evaluations(self.student + other.student, self.teacher + other.teacher)

    def __sub__(self, other: "Evaluations") -> "Evaluations":
        return Evaluations(self.student - other.student, self.teacher - other.teacher)

    def share(self, parts: int) -> "Evaluations":
        """Return one of so many equal parts."""
        assert self.student % parts == self.teacher % parts == 0
        return Evaluations(self.student // parts, self.teacher // parts)
