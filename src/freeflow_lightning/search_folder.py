"""What a search leaves behind: a folder of samples for each row of pictures, the scores by sample, and search.json."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from freeflow_lightning import plots
from freeflow_lightning.sample_folder import SampleFolder, clear

SHOWN, POINTS = 12, 256


@final
class SearchFolder:
    """Folders of samples that are drawn, missing and continued together, part by part, with a record of each part.

    Args:
        path: the folder; made if it does not exist.
        count: samples that are searched for.
        about: all that the samples depend on, as JSON.
        rows: name of each folder of samples and what it shows.
        npz: one samples.npz in each, instead of PNG files.

    Raises:
        ValueError: no samples asked for, or the folder holds samples of another search.
    """

    def __init__(self, path: Path, count: int, about: dict[str, Any], rows: Mapping[str, str], *, npz: bool) -> None:
        self.path, self.about, self.titles = path, about, dict(rows)
        self.folders = {row: SampleFolder(path / row, count, {"row": row} | about, npz=npz) for row in rows}
        self.parts = range(-(-count // len(self.indices(0))))

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folders with their notes, or see that the notes there say the same (one process does)."""
        if overwrite:
            shutil.rmtree(self.path / "scores", ignore_errors=True)
            (self.path / "search.json").unlink(missing_ok=True)
            for folder in self.folders.values():
                clear(folder.path)
        for folder in self.folders.values():
            folder.open()

    def missing(self) -> list[int]:
        """The parts that are not there yet in some folder, rising."""
        gone = {part for folder in self.folders.values() for part in folder.missing()}
        return sorted(gone | {part for part in self.parts if not self._record(part).is_file()})

    def indices(self, part: int) -> Tensor:
        """The samples of a part."""
        return next(iter(self.folders.values())).indices(part)

    def write(self, part: int, drawn: Mapping[str, Tensor], labels: Tensor | None, record: dict[str, Any]) -> None:
        """Write a part: the samples of each row, their classes, and what is known about them as JSON."""
        for row, folder in self.folders.items():
            folder.write(part, drawn[row].cpu(), labels)
        path = self._record(part)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(path)

    def records(self) -> list[dict[str, Any]]:
        """What was written about each part."""
        return [json.loads(self._record(part).read_text()) for part in self.parts]

    def finish(self, report: dict[str, Any]) -> None:
        """Join the samples, draw search.png, write search.json, sweep up what earlier runs have left (one process does)."""
        for folder in self.folders.values():
            folder.finish()
        ours = {self._record(part) for part in self.parts}
        for left in set((self.path / "scores").iterdir()) - ours:
            left.unlink()
        self._draw()
        (self.path / "search.json").write_text(json.dumps({"about": self.about} | report, indent=1) + "\n")

    def _draw(self) -> None:
        """All rows of pictures; of points in the plane the last two rows: without search and found, where both are there."""
        rank = next(iter(self.folders.values())).first(1).ndim
        shown = {self.titles[row]: folder.first(SHOWN if rank == 4 else POINTS) for row, folder in self.folders.items()}
        if rank == 4:
            plots.save(plots.rows(shown, "the same samples, column by column"), self.path / "search.png", dpi=130)
        elif all(x.shape[1:] == (2,) for x in shown.values()):
            plots.save(plots.points(dict(list(shown.items())[-2:])), self.path / "search.png")

    def _record(self, part: int) -> Path:
        index = self.indices(part)
        return self.path / "scores" / f"{int(index[0]):08d}-{int(index[-1]):08d}.json"


def concatenated(records: Sequence[dict[str, Any]], name: str) -> Tensor:
    """One list of numbers of all parts."""
    return torch.tensor([value for record in records for value in record[name]])
