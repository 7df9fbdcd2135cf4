"""What a teacher's velocity looks like in each reading of sign and time, and what that tells."""

from typing import Literal, NamedTuple

Verdict = Literal["right", "wrong sign", "wrong time", "wrong sign and time", "unclear"]

LEAST_SIZE, MOST_SIZE = 0.75, 1.3
"""Sizes of u(z, 1) over z that a trained teacher has; it was 0.97 to 1.03 of those that were tried.
"""
AMPLIFYING = 4.0
"""Worth of the raw output in u from which on its error is what makes u(z, 1) too large."""


class TeacherReading(NamedTuple):
    """What one reading of the velocity looks like at the prior, where u(z, 1) = E[x | c] - z.

    Args:
        correlation: of u(z, 1) with z, over samples of one condition; -1 for an exact teacher.
        spread: standard deviation of z + u(z, 1) over that of z, likewise; 0 for an exact teacher.
        imbalance: distance from E[u . (x - n - u)] = 0, a property of every true velocity on its
            own samples, as a share of E|x - n|^2; measured only where several readings look right
            at the prior, else None.
        size: standard deviation of u(z, 1) over that of z, likewise; 1 for an exact teacher.
    """

    correlation: float
    spread: float
    imbalance: float | None = None
    size: float = 1.0

    @property
    def is_right(self) -> bool:
        """Whether it may be a teacher's: a negative correlation, and less spread than the noise."""
        return self.correlation < -0.5 and self.spread < 1

    @property
    def is_clearly_right(self) -> bool:
        """Whether an accusation may rest on it."""
        return self.correlation < -0.9 and self.spread < 0.5

    @property
    def is_clearly_wrong(self) -> bool:
        """Whether it can be no teacher's."""
        return self.correlation > -0.5 or self.spread > 1.2

    def figures(self) -> str:
        """In words, for a line of a table."""
        words = (
            f"correlation of u(z, 1) with z {self.correlation:+.2f}, "
            f"std(z + u) / std(z) {self.spread:.2f}"
        )
        if self.imbalance is None:
            return words
        return f"{words}, imbalance on its own samples {self.imbalance:.2f}"


class ConventionCheck(NamedTuple):
    """The evidence of `check_convention`: how the velocity reads as it is and with sign, time or
    both turned round.

    Args:
        verdict: what is wrong, if anything; "unclear" for a field that is no trained teacher's in
            any reading.
        readings: by what was turned round: "as it is", "sign", "time", "sign and time".
        name: the teacher's class.
        output_scale: what an error of the network's raw output is multiplied by at the prior.
    """

    verdict: Verdict
    readings: dict[str, TeacherReading]
    name: str
    output_scale: float = 1.0

    @property
    def correlation(self) -> float:
        """Of u(z, 1) with z; must be strongly negative."""
        return self.readings["as it is"].correlation

    @property
    def spread(self) -> float:
        """Standard deviation of z + u(z, 1) over that of z; must be below 1."""
        return self.readings["as it is"].spread

    @property
    def size(self) -> float:
        """Standard deviation of u(z, 1) over that of z; 1 for an exact teacher."""
        return self.readings["as it is"].size

    @property
    def size_problem(self) -> str | None:
        """What is wrong with the size of u(z, 1), where training starts, and the cure; None where
        nothing is.
        """
        if LEAST_SIZE <= self.size <= MOST_SIZE:
            return None
        seen = (
            f"the spread of u(z, 1) is {self.size:.3g} times that of the noise z, and 1 for an "
            "exact teacher"
        )
        if self.output_scale > AMPLIFYING:
            return (
                f"{seen}: at the prior the error of its network is multiplied by "
                f"{self.output_scale:.4g}. Ask it at lower times: t_max 0.97 of the teacher "
                "brings that to 32"
            )
        return (
            f"{seen}: look at the weights, the scale of the latents, and whether it was trained up "
            "to pure noise (t_max)"
        )

    def summary(self) -> str:
        """Return the verdict with its figures, a line per reading.

        >>> from freeflow_lightning.teachers import GaussianMixtureTeacher, check_convention
        >>> print(check_convention(GaussianMixtureTeacher([[2.0, 0.0]], 0.5)).summary().splitlines()[0])
        GaussianMixtureTeacher: sign and time right
        """
        said = {
            "right": "sign and time right",
            "unclear": "sign and time unclear: in no reading does it look like a trained teacher "
            "(untrained or other weights?)",
        }
        lines = [f"{self.name}: {said.get(self.verdict, self.verdict)}"]
        for turned, reading in self.readings.items():
            label = turned if turned == "as it is" else f"{turned} turned round"
            lines.append(f"  {label:<27}{reading.figures()}")
        return "\n".join(lines)

    def evidence(self) -> str:
        """Return the figures of every reading in one line."""
        return "; ".join(
            f"{turned}: {reading.figures()}" for turned, reading in self.readings.items()
        )

    def raise_if_wrong(self) -> None:
        """Raise a ValueError that says what is wrong and how to mend it; nothing for "right" and
        "unclear".
        """
        cures = {
            "wrong sign": "return the velocity from prior to data, u = data - noise: negate it",
            "wrong time": "t = 1 is the prior and t = 0 data: give your network 1 - t",
            "wrong sign and time": (
                "t = 1 is the prior and u = data - noise: negate it and give your network 1 - t "
                "(for SiT weights: the other convention, 'sit' or 'repa')"
            ),
        }
        if self.verdict in cures:
            raise ValueError(
                f"the teacher's velocity has the {self.verdict}: {cures[self.verdict]}; if you "
                "know better, FreeFlowModule(check_teacher=False) trains all the same. Evidence: "
                f"{self.evidence()}"
            )
