"""A folder of samples that survives an interruption: whole files only, and a note of what they
are.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from freeflow_lightning.sampling.sample_files import (
    encode_npz,
    encode_png,
    encode_sheet,
    join_npz,
    read_classes,
    read_npz_classes,
    read_npz_samples,
    read_pictures,
)
from freeflow_lightning.training.atomic_write import sweep, write_file, write_json
from freeflow_lightning.training.digests import digest_of, file_digest, key_of
from freeflow_lightning.training.output_folder import (
    MARK,
    marked,
    read_listed,
    read_note,
    refuse_others,
    remove_listed,
    write_bytes,
)

PART = 64
"""Samples that are written, or missing, together."""
GRID = 256
VERB, NOTE, JOINED, SHEET = "sample", "samples.json", "samples.npz", "grid.png"
RECORD = re.compile(r"\d{8,}-\d{8,}\.json")
"""Name of what is noted about a part until the folder is finished."""


@final
class SampleFolder:
    """PNG files that say their class, or one samples.npz in the layout of ADM's evaluator: arr_0
    uint8 [N, H, W, C], and arr_1 the classes.

    Samples are written in parts of 64, each file under a temporary name first. What is written is
    noted with its SHA-256 beforehand, in a record of the part and at the end in samples.json: a
    second run draws what is missing or damaged, and nothing that is not noted is taken for a
    sample, overwritten or removed. The file samples.json also says what the samples are; others are
    not mixed in.

    Args:
        path: the folder; made if it does not exist.
        count: samples that it will hold.
        about: all that the samples depend on, as JSON.
        npz: one .npz instead of PNG files. Samples that are no pictures are always written so.
        columns: of grid.png; a square if not given.
        beside: further files by name, which belong to the samples.

    Raises:
        ValueError: no samples asked for, or the folder holds other samples.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        about: dict[str, Any],
        *,
        npz: bool,
        columns: int | None = None,
        beside: Mapping[str, bytes] = {},
    ) -> None:
        if count < 1:
            raise ValueError(f"expected at least one sample, got {count}")
        self.path = path
        self.count = count
        self.npz = npz
        self.columns = columns
        self.beside = beside
        self.about = about | {"format": "npz" if npz else "png"} | ({"count": count} if npz else {})
        self.parts = range(-(-count // PART))

    def check(self, *, overwrite: bool = False) -> None:
        """See that the folder is free, or holds these samples, or samples of ours that may be
        removed.

        Raises:
            ValueError: it holds other samples, or files of these names that are not ours.
        """
        listed = read_listed(self.path / NOTE, VERB)
        refuse_others(self.path, self._names(), set() if listed is None else self._ours(), VERB)
        if listed is None or overwrite:
            return
        held = read_note(self.path / NOTE) or {}
        keys = (held.keys() | self.about.keys()) - {MARK}
        other = sorted(key for key in keys if held.get(key) != self.about.get(key))
        if other:
            raise ValueError(
                f"{self.path} holds samples of another {', '.join(other)}: choose another "
                f"--output, or --overwrite"
            )

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder with its note, or see that the note there says the same (one process
        does).
        """
        self.check(overwrite=overwrite)
        sweep(self.path, self._names())
        sweep(self.path / "parts", [name.removeprefix("parts/") for name in self._names()])
        if overwrite and read_listed(self.path / NOTE, VERB) is not None:
            remove_listed(self.path, [name for name in self._ours() if name != NOTE])
            (self.path / NOTE).unlink()
        if not (self.path / NOTE).is_file():
            self._write_note({})

    def missing(self) -> list[int]:
        """Return the parts that are not there yet, or not as they were written, ascending (one
        process looks).
        """
        listed = self._listed()
        if self.npz and JOINED in listed and file_digest(self.path / JOINED) == listed[JOINED]:
            return []
        return [part for part in self.parts if not self._is_there(part, listed)]

    def indices(self, part: int) -> Tensor:
        """Return the samples of a part, [at most 64]."""
        return torch.arange(part * PART, min((part + 1) * PART, self.count))

    def write(self, part: int, drawn: Tensor, labels: Tensor | None) -> None:
        """Write a part: pictures uint8 [n, C, H, W], or other samples [n, ...], and their classes
        [n].
        """
        if self.npz:
            files = {self._files(part)[0]: encode_npz(drawn, labels)}
        else:
            classes = [None] * len(drawn) if labels is None else labels.tolist()
            files = {
                name: encode_png(picture, label)
                for name, picture, label in zip(self._files(part), drawn, classes, strict=True)
            }
        digests = {name: digest_of(data) for name, data in files.items()}
        write_json(
            self.path / self._record(part), marked({"of": key_of(self.about)}, VERB, digests)
        )
        for name, data in files.items():
            # thousands of files, digests noted
            write_bytes(self.path / name, data, wait_for_disk=False)

    def finish(self) -> None:
        """Join the parts, draw grid.png, and note every file in samples.json (one process does)."""
        listed, records = self._listed(), self._records()
        if self.npz and file_digest(self.path / JOINED) != listed.get(JOINED, ""):
            with write_file(self.path / JOINED) as temporary:
                parts = [self.path / self._files(part)[0] for part in self.parts]
                join_npz(parts, temporary, self.count)
                listed[JOINED] = file_digest(temporary) or ""
                self._write_note(listed)
        if not self.npz:
            listed |= self._noted(records)
        sheet = encode_sheet(self.first(GRID), self.columns, self.first_classes(GRID))
        further = dict(self.beside) if sheet is None else {**self.beside, SHEET: sheet}
        listed |= {name: digest_of(data) for name, data in further.items()}
        self._write_note(listed)
        for name, data in further.items():
            write_bytes(self.path / name, data)
        done = [name for files in records.values() for name in files if name not in listed]
        remove_listed(self.path, done)
        remove_listed(self.path, records)

    def first(self, n: int) -> Tensor:
        """Return the first samples of a finished folder, as they were written."""
        n = min(n, self.count)
        if self.npz:
            return read_npz_samples(self.path / JOINED, n)
        return read_pictures([self.path / f"{i:06d}.png" for i in range(n)])

    def first_classes(self, n: int) -> list[int] | None:
        """Return the classes of the first samples of a finished folder; None where they have
        none.
        """
        if self.npz:
            return read_npz_classes(self.path / JOINED, n)
        return read_classes([self.path / f"{i:06d}.png" for i in range(min(n, self.count))])

    # Names

    def _range(self, part: int) -> str:
        index = self.indices(part)
        return f"{int(index[0]):08d}-{int(index[-1]):08d}"

    def _record(self, part: int) -> str:
        return f"parts/{self._range(part)}.json"

    def _files(self, part: int) -> list[str]:
        """Return the files that hold a part until the folder is finished."""
        if self.npz:
            return [f"parts/{self._range(part)}.npz"]
        return [f"{i:06d}.png" for i in self.indices(part).tolist()]

    def _names(self) -> list[str]:
        """Return every name that this folder may come to hold."""
        names = [NOTE, SHEET, *self.beside, *([JOINED] if self.npz else [])]
        for part in self.parts:
            names += [self._record(part), *self._files(part)]
        return names

    # Notes

    def _listed(self) -> dict[str, str]:
        """Names and digests of samples.json."""
        return read_listed(self.path / NOTE, VERB) or {}

    def _records(self) -> dict[str, dict[str, str]]:
        """Return the records of parts by name, and the files with digests that each lists: of any
        samples of ours.
        """
        place = self.path / "parts"
        if place.is_symlink() or not place.is_dir():
            return {}
        found = {}
        for path in sorted(place.iterdir()):
            files = read_listed(path, VERB) if RECORD.fullmatch(path.name) else None
            if files is not None:
                found[f"parts/{path.name}"] = files
        return found

    def _noted(self, records: dict[str, dict[str, str]]) -> dict[str, str]:
        """Return what records note, those of the parts as they are now last: they are the
        newest.
        """
        now = {self._record(part) for part in self.parts}
        noted: dict[str, str] = {}
        for name in sorted(records, key=lambda name: name in now):
            noted |= records[name]
        return noted

    def _ours(self) -> set[str]:
        """Return every name that a note in the folder lists, and the notes."""
        records = self._records()
        return {NOTE, *self._listed(), *records, *self._noted(records)}

    def _is_there(self, part: int, listed: dict[str, str]) -> bool:
        """Return whether every file of a part is what was noted when it was written."""
        path = self.path / self._record(part)
        record = read_listed(path, VERB)
        if record is not None and (read_note(path) or {}).get("of") == key_of(self.about):
            listed = listed | record
        return all(
            name in listed and file_digest(self.path / name) == listed[name]
            for name in self._files(part)
        )

    def _write_note(self, files: dict[str, str]) -> None:
        write_json(self.path / NOTE, marked(self.about, VERB, files))
