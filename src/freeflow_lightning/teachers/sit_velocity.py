"""SiT networks in their own conventions, and the change of variables from each to u."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from freeflow_lightning.flow import check_counts
from freeflow_lightning.nets import SiT

Name = Literal["sit", "repa"]


@dataclass(frozen=True)
class Convention:
    """How a SiT network's time and output become ours: u(x, t, c) = sign * net(x, time, c).

    Args:
        prior_time: the network's time at the prior: time is t for 1 and 1 - t for 0.
        sign: factor on its output, 1 or -1; 1 where that points from noise to data.
    """

    prior_time: int
    sign: int

    def __post_init__(self) -> None:
        check_counts(-1, prior_time=self.prior_time, sign=self.sign)
        if self.prior_time not in (0, 1) or self.sign not in (-1, 1):
            raise ValueError(
                f"expected prior_time 0 or 1 and sign 1 or -1, got {self.prior_time} and "
                f"{self.sign}"
            )


SIT = Convention(prior_time=0, sign=1)
"""SiT's path is tau x + (1 - tau) noise with output data - noise."""


REPA = Convention(prior_time=1, sign=-1)
"""REPA's path is (1 - t) x + t noise with output noise - data."""


CONVENTIONS: dict[Name, Convention] = {"sit": SIT, "repa": REPA}
"""By the names that YAML, our own weight files and exported folders hold."""


def find_convention(name: str) -> Convention:
    """Look a convention up by its name in a file or a config."""
    for known, convention in CONVENTIONS.items():
        if known == name:
            return convention
    raise ValueError(f"expected the convention 'sit' or 'repa', got {name!r}")


def convention_name(convention: Convention) -> Name | None:
    """Return the name under which files and configs know a convention; None for one that has none.

    >>> convention_name(REPA), convention_name(Convention(prior_time=1, sign=1))
    ('repa', None)
    """
    return next((name for name, known in CONVENTIONS.items() if known == convention), None)


class SiTVelocity(nn.Module):
    """A SiT network as u(x, t, condition) = sign * net(x, time, c), a teacher's or an official
    student's.

    Args:
        net: the network in its own convention.
        convention: SIT, REPA or another; their names "sit" and "repa" in a config.
    """

    def __init__(self, net: SiT, convention: Convention | Name = SIT) -> None:
        super().__init__()
        self.net = net
        self.convention = find_convention(convention) if isinstance(convention, str) else convention

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """u(x, t | condition), [B, C, H, W]."""
        time = t if self.convention.prior_time else 1 - t
        return self.convention.sign * self.net(x, time, condition)


def read_from_prior(net: SiT, prior_time: int, sign: int) -> SiTVelocity:
    """Return the network of an exported folder of 0.1.0, which calls an official student's
    "FromPrior".
    """
    return SiTVelocity(net, Convention(prior_time, sign))
