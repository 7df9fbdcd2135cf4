"""A foreign SiT's convention, measured or told by the layout of its file."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from freeflow_lightning.nets import SiT
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.convention_check import check_convention
from freeflow_lightning.teachers.reading.sit_architecture import size_name
from freeflow_lightning.teachers.reading.sit_files import SiTWeights, build_sit
from freeflow_lightning.teachers.sit_velocity import (
    REPA,
    SIT,
    Convention,
    SiTVelocity,
    convention_name,
    find_convention,
)


def load_foreign(
    read: SiTWeights, path: str | Path, convention: Literal["auto", "sit", "repa"]
) -> tuple[SiTVelocity, tuple[str, ...]]:
    """Return a foreign file's network in the given convention or in the one found out, and what to
    tell the user.

    Raises:
        ValueError: tensors that no SiT has, or a convention that the samples do not tell.
    """
    if read.extra:
        raise ValueError(
            f"{path} holds {len(read.extra)} tensors that no SiT has: "
            f"{', '.join(sorted(read.extra)[:10])}"
        )
    net = build_sit(read).eval()
    parameters = sum(p.numel() for p in net.parameters())
    about = f"{size_name(read.architecture)}, latents {list(net.sample_shape)}, {parameters:,} parameters"
    if convention != "auto":
        return SiTVelocity(net, convention), (
            about,
            *read.notes,
            f"convention {convention!r} as given",
        )
    measured, why = measure_convention(net, read.hint, path)
    return SiTVelocity(net, measured), (about, *read.notes, why)


def measure_convention(net: SiT, hint: str | None, path: str | Path) -> tuple[Convention, str]:
    """Return the convention by measuring u(z, 1), or by the file's layout where that does not tell,
    and the evidence in words.
    """
    evidence = check_convention(_AsTeacher(SiTVelocity(net, SIT)), samples=2)
    measured = {"right": SIT, "wrong sign and time": REPA}
    if evidence.verdict in measured:
        found = measured[evidence.verdict]
        here = evidence.readings["as it is" if found == SIT else "sign and time"]
        beside = (
            f", although the layout is that of {hint!r} files"
            if hint not in (None, convention_name(found))
            else ""
        )
        return (
            found,
            f"convention {convention_name(found)!r} as measured ({here.figures()}){beside}",
        )
    if evidence.verdict == "unclear" and hint is not None:
        known = find_convention(hint)
        return (
            known,
            f"convention {convention_name(known)!r} by the file's layout alone: the samples do not tell",
        )
    raise ValueError(
        f"cannot tell the convention of {path}: give convention 'sit' or 'repa'. Evidence, read "
        f"as 'sit': {evidence.evidence()}"
    )


class _AsTeacher(Teacher):
    """A velocity to be checked."""

    def __init__(self, function: SiTVelocity) -> None:
        super().__init__()
        self.function = function
        self.sample_shape = function.net.sample_shape
        self.num_classes = function.net.num_classes

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)
