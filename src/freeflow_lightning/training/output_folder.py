"""Folders that commands write to: a note lists what a command wrote there, and nothing else is
overwritten or deleted.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from freeflow_lightning.training.atomic_write import sweep, write_file, write_json
from freeflow_lightning.training.digests import digest_of

MARK = "freeflow"
"""Key of a note under which a command says that the note is its own, and lists its files."""


def claim_names(folder: Path, note: str, verb: str, names: Iterable[str]) -> dict[str, str]:
    """Check that a command may write files into a folder, and sweep what its killed processes have
    left of them.

    Args:
        folder: to write to; it need not exist.
        note: name of the JSON file that lists the command's files.
        verb: the command.
        names: of the other files that it will write.

    Returns:
        The names that the note lists now, with the SHA-256 of each.

    Raises:
        ValueError: a name is there that the note does not list, or that is a link or a folder.
    """
    wanted = [note, *names]
    files = read_listed(folder / note, verb)
    refuse_others(folder, wanted, set() if files is None else {note, *files}, verb)
    sweep(folder, wanted)
    return files or {}


def publish(
    folder: Path, note: str, verb: str, content: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Write files and the note that lists them, each whole or not at all.

    The note comes first, so that a run after a kill knows the files for its own.

    Args:
        folder: made if it does not exist.
        note: name of the JSON file with the content and the list.
        verb: the command.
        content: of the note, as plain values; numbers that are not finite become null.
        files: the others by name.

    Raises:
        ValueError: a name belongs to somebody else.
    """
    listed = claim_names(folder, note, verb, files)
    listed |= {name: digest_of(data) for name, data in files.items()}
    write_json(folder / note, finite_or_none(marked(content, verb, listed)))
    for name, data in files.items():
        write_bytes(folder / name, data)


def marked(content: Mapping[str, Any], verb: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of a note, with the list of a command's files and their digests."""
    return {**content, MARK: {"verb": verb, "files": dict(sorted(files.items()))}}


def read_note(path: Path) -> dict[str, Any] | None:
    """Return a JSON file of named values; None where there is none, and where a link stands in its
    place.
    """
    if path.is_symlink() or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_listed(path: Path, verb: str) -> dict[str, str] | None:
    """Return the names and digests that a command's note lists; None where there is no note of this
    command.

    A note that lists names outside its folder is nobody's.
    """
    mark = (read_note(path) or {}).get(MARK)
    if not isinstance(mark, dict) or mark.get("verb") != verb:
        return None
    files = mark.get("files")
    if not isinstance(files, dict) or not all(is_inside(name) for name in files):
        return None
    return files


def refuse_others(folder: Path, names: Iterable[str], ours: Collection[str], verb: str) -> None:
    """Refuse to write names that are there and are not ours, and names that are links or folders.

    Raises:
        ValueError: with the first of these names.
    """
    others = sorted(find_others(folder, names, ours))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(
            f"{folder} holds {', '.join(others[:3])}{more}, which this version of freeflow {verb} "
            "has not written: move that away, or choose another folder"
        )


def find_others(folder: Path, names: Iterable[str], ours: Collection[str]) -> Iterator[str]:
    """Yield the names that are in a folder and are not ours, one look into each folder."""
    refuse_place(folder)
    by_parent: dict[str, set[str]] = {}
    for name in names:
        parent, _, last = name.rpartition("/")
        by_parent.setdefault(parent, set()).add(last)
    for parent, lasts in by_parent.items():
        place = folder / parent
        if parent and os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
            yield parent
        elif place.is_dir():
            with os.scandir(place) as entries:
                found = [entry for entry in entries if entry.name in lasts]
            for entry in found:
                name = f"{parent}/{entry.name}" if parent else entry.name
                if name not in ours or not entry.is_file(follow_symlinks=False):
                    yield name


def refuse_place(folder: Path) -> None:
    """Refuse a folder that is none, or that cannot be written to or made (ValueError)."""
    places = (folder, *folder.absolute().parents)
    there = next(place for place in places if os.path.lexists(place))
    if not there.is_dir():
        raise ValueError(f"expected a folder at {there}, found a file: choose another folder")
    if not os.access(there, os.W_OK):
        raise ValueError(
            f"expected a folder that can be written to, got {there}: choose another folder"
        )


def claim_folder(target: Path) -> Path:
    """Return the real path of a folder that is to be written as one, swept of what killed processes
    have left of it.

    Raises:
        ValueError: a whole file system, in whose place no folder can come.
    """
    real = Path(os.path.realpath(target))  # a link to a folder stays one
    if real.is_mount():
        raise ValueError(
            f"{target} is a file system of its own: choose a folder inside it, for example "
            f"{target / 'new'}"
        )
    sweep(real.parent, [real.name])
    return real


def claim_picture(path: Path, verb: str) -> None:
    """Check that a command may write a PNG, which no note lists: one that is there names its maker.

    Raises:
        ValueError: another file, a link or a folder is there.
    """
    if os.path.lexists(path) and (path.is_symlink() or maker_of(path) != f"freeflow {verb}"):
        raise ValueError(
            f"{path} is there, and freeflow {verb} has not written it: choose another --output, "
            f"or move it away"
        )
    sweep(path.parent, [path.name])


def maker_of(path: Path) -> str | None:
    """Return what a PNG says that it was made by; None for other files."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software")
    except OSError:
        return None


def remove_listed(folder: Path, names: Iterable[str]) -> None:
    """Remove files that a note lists, and the folders inside that are empty then; links and what is
    gone stay as they are.
    """
    parents = set()
    for name in names:
        path = folder / name
        if path.parent != folder:
            parents.add(path.parent)
        if not path.parent.is_symlink() and not path.is_symlink() and path.is_file():
            path.unlink()
    for parent in parents:
        if not parent.is_symlink() and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def write_bytes(path: Path, data: bytes, *, wait_for_disk: bool = True) -> None:
    """Write a file whole or not at all; `wait_for_disk` as in `write_file`."""
    with write_file(path, wait_for_disk=wait_for_disk) as temporary:
        temporary.write_bytes(data)


def finite_or_none(value: Any) -> Any:
    """Plain values for JSON, which has no NaN and no infinity: null in their place.

    >>> finite_or_none({"fid": float("nan"), "scores": (1.5, float("inf"))})
    {'fid': None, 'scores': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite_or_none(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def is_inside(name: Any) -> bool:
    """Return whether a name with slashes stays in the folder that it is read from, links aside.

    >>> [is_inside(name) for name in ("a.png", "parts/a.npz", "../a", "/etc/a", "a/../../b", "", 3)]
    [True, True, False, False, False, False, False]
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts
