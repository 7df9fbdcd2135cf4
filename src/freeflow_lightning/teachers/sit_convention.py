"""A foreign SiT's convention, measured or told by the layout of its file."""

from pathlib import Path
from typing import Literal

from freeflow_lightning.nets import SiT
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
from freeflow_lightning.teachers.velocity import VelocityTeacher


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
    size = f"{size_name(read.architecture)}, latents {list(net.sample_shape)}"
    chosen: Convention | Literal["sit", "repa"]
    if convention == "auto":
        chosen, why = measure_convention(net, read.hint, path)
    else:
        chosen, why = convention, f"convention {convention!r} as given"
    return SiTVelocity(net, chosen), (f"{size}, {parameters:,} parameters", *read.notes, why)


def measure_convention(net: SiT, hint: str | None, path: str | Path) -> tuple[Convention, str]:
    """Return the convention by measuring u(z, 1), or by the file's layout where that does not tell,
    and the evidence in words.
    """
    as_sit = VelocityTeacher(SiTVelocity(net, SIT), net.sample_shape, net.num_classes)
    evidence = check_convention(as_sit, samples=2)
    measured = {"right": (SIT, "as it is"), "wrong sign and time": (REPA, "sign and time")}
    if evidence.verdict in measured:
        found, turned = measured[evidence.verdict]
        name, figures = convention_name(found), evidence.readings[turned].figures()
        words = f"convention {name!r} as measured ({figures})"
        if hint not in (None, name):
            words += f", although the layout is that of {hint!r} files"
        return found, words
    if evidence.verdict == "unclear" and hint is not None:
        words = f"convention {hint!r} by the file's layout alone: the samples do not tell"
        return find_convention(hint), words
    raise ValueError(
        f"cannot tell the convention of {path}: give convention 'sit' or 'repa'. Evidence, read "
        f"as 'sit': {evidence.evidence()}"
    )
