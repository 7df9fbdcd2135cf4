"""The folder of an exported student, which comes whole in the place of nothing or of an older one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freeflow_lightning.students.export.folder import CARD, MANIFEST, read_manifest
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
    """See that a folder's place is free, or holds an exported student that may be replaced (Raises: ValueError)."""
    if os.path.lexists(target) and not target.is_dir():
        raise ValueError(f"{target} is there already and is no exported student: choose another folder")
    held = {path.relative_to(target).as_posix() for path in target.rglob("*")}
    if held and MANIFEST not in held:
        raise ValueError(f"{target} is there already and is no exported student: choose another folder")
    if held and not overwrite:
        raise ValueError(f"{target} holds an exported student already: choose another folder, or overwrite it (--overwrite)")
    if held:
        known = {MANIFEST, CARD, *read_manifest(target / MANIFEST)["files"]}
        known |= {parent.as_posix() for name in known for parent in Path(name).parents}
        links = {name for name in held if (target / name).is_symlink()}
        if others := sorted((held - known) | links):
            raise ValueError(f"{target} holds files beside the exported student ({', '.join(others[:4])}): move them first")
