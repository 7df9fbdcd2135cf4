"""What a search leaves behind: a folder of samples for each row of pictures, the scores by sample,
and search.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from freeflow_lightning.metrics.class_names import class_names
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.picture_rows import caption_classes, picture_rows
from freeflow_lightning.sampling.sample_folder import RECORD, SampleFolder
from freeflow_lightning.training.atomic_write import sweep, write_json
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

SHOWN, POINTS = 12, 256
VERB, NOTE, PICTURE = "search", "search.json", "search.png"


@final
class SearchFolder:
    """Folders of samples that are drawn, missing and continued together, part by part, with a
    record of each part.

    A record says itself which search it belongs to; search.json, which a finished search writes,
    lists them and the picture with their SHA-256. What neither says is nobody's to overwrite or
    remove.

    Args:
        path: the folder; made if it does not exist.
        count: samples that are searched for.
        about: all that the samples depend on, as JSON.
        rows: name of each folder of samples and what it shows.
        npz: one samples.npz in each, instead of PNG files.
        num_classes: of the samples; where the classes of such pictures have names, captions do.

    Raises:
        ValueError: no samples asked for, or the folder holds samples of another search.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        about: dict[str, Any],
        rows: Mapping[str, str],
        *,
        npz: bool,
        num_classes: int = 0,
    ) -> None:
        self.path = path
        self.num_classes = num_classes
        self.about = about
        self.titles = dict(rows)
        self.folders = {
            row: SampleFolder(path / row, count, {"row": row} | about, npz=npz) for row in rows
        }
        self.parts = range(-(-count // len(self.indices(0))))

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folders with their notes, or see that the notes there say the same (one process
        does).
        """
        names = [NOTE, PICTURE, *(self._record(part) for part in self.parts)]
        refuse_others(self.path, names, self._ours(), VERB)
        for folder in self.folders.values():
            folder.check(overwrite=overwrite)
        sweep(self.path, names)
        sweep(self.path / "scores", [Path(name).name for name in names])
        if overwrite:
            remove_listed(self.path, self._ours())
        for folder in self.folders.values():
            folder.open(overwrite=overwrite)

    def missing(self) -> list[int]:
        """Return the parts that are not there yet in some folder, or not as they were written,
        ascending (one process looks).
        """
        gone = {part for folder in self.folders.values() for part in folder.missing()}
        listed = read_listed(self.path / NOTE, VERB) or {}
        return sorted(gone | {part for part in self.parts if not self._is_noted(part, listed)})

    def indices(self, part: int) -> Tensor:
        """Return the samples of a part."""
        return next(iter(self.folders.values())).indices(part)

    def write(
        self, part: int, drawn: Mapping[str, Tensor], labels: Tensor | None, record: dict[str, Any]
    ) -> None:
        """Write a part: the samples of each row, their classes, and what is known about them as
        JSON.
        """
        for row, folder in self.folders.items():
            folder.write(part, drawn[row].cpu(), labels)
        write_json(
            self.path / self._record(part), marked(record | {"of": key_of(self.about)}, VERB, {})
        )

    def records(self) -> list[dict[str, Any]]:
        """Return what was written about each part."""
        found = [read_note(self.path / self._record(part)) or {} for part in self.parts]
        return [
            {key: value for key, value in record.items() if key not in (MARK, "of")}
            for record in found
        ]

    def finish(self, report: dict[str, Any]) -> None:
        """Join the samples, write search.json, draw search.png, remove records of earlier parts
        (one process does).
        """
        for folder in self.folders.values():
            folder.finish()
        names = [self._record(part) for part in self.parts]
        earlier = [name for name in self._own_records() if name not in names]
        listed = {name: file_digest(self.path / name) or "" for name in names}
        figure = self._picture(report)
        picture = None if figure is None else plots.png(*figure)
        if picture is not None:
            listed[PICTURE] = digest_of(picture)
        write_json(self.path / NOTE, marked({"about": self.about} | report, VERB, listed))
        if picture is not None:
            write_bytes(self.path / PICTURE, picture)
        remove_listed(self.path, earlier)

    def _picture(self, report: Mapping[str, Any]) -> tuple[Figure, int] | None:
        """Return all rows of pictures with their classes and scores; of points in the plane the
        last two rows: without search and found, where both are there.
        """
        one = next(iter(self.folders.values())).first(1)
        rank = one.ndim
        shown = {
            self.titles[row]: folder.first(SHOWN if rank == 4 else POINTS)
            for row, folder in self.folders.items()
        }
        if rank == 4:
            names = class_names(one.shape[1:], self.num_classes)
            captions = caption_classes((report.get("labels") or [])[:SHOWN] or None, names)
            scores = report.get("scores", {})
            notes = {
                self.titles[row]: [f"{score:.3g}" for score in scores.get(row, ())]
                for row in self.folders
            }
            title = "the same samples, column by column; the verifier's score under each"
            return picture_rows(shown, title, captions, notes), 130
        if all(x.shape[1:] == (2,) for x in shown.values()):
            return plots.points(dict(list(shown.items())[-2:])), 110
        return None

    def _record(self, part: int) -> str:
        index = self.indices(part)
        return f"scores/{int(index[0]):08d}-{int(index[-1]):08d}.json"

    def _own_records(self) -> list[str]:
        """Return the records of this folder, of any search."""
        place = self.path / "scores"
        if place.is_symlink() or not place.is_dir():
            return []
        named = [path for path in place.iterdir() if RECORD.fullmatch(path.name)]
        return [f"scores/{path.name}" for path in named if read_listed(path, VERB) is not None]

    def _ours(self) -> set[str]:
        """Return the records, and what search.json lists with itself."""
        listed = read_listed(self.path / NOTE, VERB)
        return {*self._own_records(), *(() if listed is None else (NOTE, *listed))}

    def _is_noted(self, part: int, listed: Mapping[str, str]) -> bool:
        """Return whether the record of a part is of this search, and as it was when search.json was
        written.
        """
        name = self._record(part)
        note = read_note(self.path / name)
        if (
            note is None
            or read_listed(self.path / name, VERB) is None
            or note.get("of") != key_of(self.about)
        ):
            return False
        return name not in listed or file_digest(self.path / name) == listed[name]


def concat_states(records: Sequence[dict[str, Any]], name: str) -> Tensor:
    """Return one list of numbers of all parts."""
    return torch.tensor([value for record in records for value in record[name]])
