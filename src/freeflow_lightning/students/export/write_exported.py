"""The folder of an exported student, which comes whole in the place of nothing or of an older
one.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freeflow_lightning.nets import Adapter, ScalarConditioned, merge
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.students.export.folder import CARD, MANIFEST, read_manifest
from freeflow_lightning.students.export.networks import find_foreign
from freeflow_lightning.students.export.read_exported import read_exported
from freeflow_lightning.students.export.student import find_differences, write_student
from freeflow_lightning.students.student import ABOUT, OWN_NETWORKS, Student
from freeflow_lightning.training.atomic_write import write_folder
from freeflow_lightning.training.output_folder import claim_folder


@contextmanager
def write_exported(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder beside the target that becomes it at the end, or vanishes if anything fails.

    Args:
        target: of an exported student.
        overwrite: whether an exported student there may be replaced, and nothing but its own files.

    Raises:
        ValueError: the target holds other files, or a student that is not to be overwritten.
    """
    real = claim_folder(target)
    check_replaceable(target, overwrite)
    with write_folder(real) as made:
        yield made
        check_replaceable(target, overwrite)  # what has come there meanwhile


def check_replaceable(target: Path, overwrite: bool) -> None:
    """See that a folder's place is free, or holds an exported student that may be replaced (Raises:
    ValueError).
    """
    if os.path.lexists(target) and not target.is_dir():
        raise ValueError(
            f"{target} is there already and is no exported student: choose another folder"
        )
    held = {path.relative_to(target).as_posix() for path in target.rglob("*")}
    if held and MANIFEST not in held:
        raise ValueError(
            f"{target} is there already and is no exported student: choose another folder"
        )
    if held and not overwrite:
        raise ValueError(
            f"{target} holds an exported student already: choose another folder, or overwrite it "
            f"(--overwrite)"
        )
    if held:
        known = {MANIFEST, CARD, *read_manifest(target / MANIFEST)["files"]}
        known |= {parent.as_posix() for name in known for parent in Path(name).parents}
        links = {name for name in held if (target / name).is_symlink()}
        if others := sorted((held - known) | links):
            raise ValueError(
                f"{target} holds files beside the exported student ({', '.join(others[:4])}): "
                f"move them first"
            )


def write_student_folder(
    student: Student, folder: Path, network_arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a student into an empty folder, and see that it comes back bit for bit.

    An adapter is merged into a network that stands alone, which agrees with it up to rounding.

    Args:
        student: with a network that a recipe or a reader made.
        folder: empty.
        network_arguments: constructor arguments of a network of the user's own.

    Returns:
        What freeflow.json says.

    Raises:
        ValueError: a part of the student that a folder cannot hold.
    """
    network = student.network
    assert isinstance(network, ScalarConditioned)
    alone = merge(network) if isinstance(network.backbone, Adapter) else network
    facts = {name: student.about.get(name) for name in ABOUT}
    facts |= {"guidance_range": list(student.guidance_range), "weights_hash": weights_hash(alone)}
    known = student.about.get(OWN_NETWORKS) or {}
    manifest = write_student(alone, student.teacher, folder, facts, known, network_arguments)
    trust = next((unknown.class_path for unknown in find_foreign(manifest["network"])), None)
    again = read_exported(folder, trust=trust)
    if different := find_differences(alone, again.network):
        raise ValueError(f"the folder does not hold what was exported: {different[:6]} differ")
    return manifest
