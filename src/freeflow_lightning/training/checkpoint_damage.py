"""What is wrong with a checkpoint, a file or a folder, and which older one is good."""

import pickle
import zipfile
from pathlib import Path

import torch

from freeflow_lightning.training.checkpoint_folder import META
from freeflow_lightning.training.whole_file import check_records


def check_whole(path: Path) -> None:
    """Compare every record of a checkpoint, a file or a sharded run's folder, with its CRC32.

    All of it is read, a record at a time.

    Raises:
        ValueError: a record that has changed.
    """
    if not path.is_dir():
        check_records(path)
        return
    from freeflow_lightning.training.sharded_checkpoint import FolderReader  # noqa: PLC0415 (torch.distributed.checkpoint: a second that files do without)

    check_records(path / META)
    reader = FolderReader(path)
    for share in (reader.read_metadata().storage_data or {}).values():
        reader.check_share(share.relative_path, share.offset, share.length)


def unreadable(path: str | Path, error: Exception) -> ValueError:
    """Return what is said of a checkpoint that cannot be read, with the way out."""
    if isinstance(error, pickle.UnpicklingError):
        return ValueError(
            f"{path} is not a readable checkpoint: it holds more than tensors and plain values, "
            "and loading it would run code, which is refused"
        )
    if isinstance(error, PermissionError):
        return ValueError(
            f"{path} may not be read by this user (permission denied): ask its owner for the right "
            "to read it"
        )
    older = older_checkpoint(Path(path))
    way_out = (
        f"the newest good one before it is {older}" if older else "no older good one lies beside it"
    )
    why = describe_damage(error)
    return ValueError(f"{path} is not a readable checkpoint ({why}): it is damaged; {way_out}")


def describe_damage(error: Exception) -> str:
    """Return what is wrong with a file, from what it made of its reader."""
    tells = isinstance(error, ValueError | zipfile.BadZipFile)
    return str(error) if tells and str(error) else type(error).__name__


def older_checkpoint(path: Path) -> Path | None:
    """Return the newest whole checkpoint that was written before this one and lies beside it."""
    if not path.exists():
        return None
    beside = [
        other
        for other in path.parent.glob("*.ckpt")
        if other != path and written_at(other) <= written_at(path)
    ]
    newest_first = sorted(beside, key=written_at, reverse=True)
    return next((other for other in newest_first if not defect(other, trains=False)), None)


def written_at(path: Path) -> int:
    """When a file or folder was written, in nanoseconds."""
    return path.stat().st_mtime_ns


def defect(path: Path, *, trains: bool = True) -> str:
    """Say why nothing can go on from a checkpoint, a file or a folder; empty where it can.

    All of it is read once, a record at a time, for a flipped bit shows nowhere else: seconds for a
    checkpoint of 8 GiB, so callers ask the newest first and stop at the first good one.

    Args:
        path: the checkpoint.
        trains: whether it is training that is to go on, which takes more than weights.
    """
    try:
        check_whole(path)
        return lack(path, trains=trains)
    except Exception as error:  # whatever a damaged file makes of its reader
        return f"unreadable, {describe_damage(error)}"


def lack(path: Path, *, trains: bool) -> str:
    """Say what a checkpoint lacks to go on from, by its table of contents; empty for nothing.

    Raises:
        Exception: whatever a file that is none makes of its reader.
    """
    held = contents(path)
    if "state_dict" not in held:
        return "no state_dict"
    needed = ("optimizer_states", "lr_schedulers", "loops") if trains else ()
    missing = [part for part in needed if part not in held]
    return f"weights without {', '.join(missing)}" if missing else ""


def contents(path: Path) -> set[str]:
    """Return the parts of a checkpoint.

    Raises:
        Exception: whatever a file that is none makes of its reader.
        ValueError: a sharded run's folder from which a share is missing.
    """
    if not path.is_dir():
        return set(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    from freeflow_lightning.training.sharded_checkpoint import FolderReader  # noqa: PLC0415 (torch.distributed.checkpoint: a second that files do without)

    metadata = FolderReader(path).read_metadata()
    for share in (metadata.storage_data or {}).values():
        if (path / share.relative_path).stat().st_size < share.offset + share.length:
            raise ValueError(f"{share.relative_path} is cut")
    parts = {key.partition(".")[0] for key in metadata.state_dict_metadata}
    if any(part.startswith("optimizer_") for part in parts):
        parts.add("optimizer_states")
    return parts | set(torch.load(path / META, map_location="cpu", weights_only=True))
