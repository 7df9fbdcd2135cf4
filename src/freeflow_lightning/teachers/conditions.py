"""What a teacher is conditioned on: classes, prompts, or nothing; three siblings."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor
from torch.nn.functional import pad

from freeflow_lightning.flow import check_counts
from freeflow_lightning.teachers.prompt_files import read_index


class Conditions(ABC):
    """A source of conditions."""

    num_classes: int = 0

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> Any:
        """n conditions as a function of the generator, on its device."""

    @abstractmethod
    def null(self, condition: Any) -> Any:
        """Return the condition that means "no condition", shaped as `condition`."""

    def describe(self) -> dict[str, Any]:
        """Return what an exported folder says of it: its kind ("classes", "none" or "prompts") and
        what belongs to it.
        """
        return {"kind": "prompts", "what": f"what {type(self).__name__} draws"}

    def of_classes(self, labels: Tensor) -> Any:
        """Return the condition for class labels [B]; None without classes.

        Raises:
            ValueError: a label that is no class; the null class is none.
        """
        if not self.num_classes:
            return None
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < self.num_classes):
            raise ValueError(
                f"expected classes in 0 .. {self.num_classes - 1}, got "
                f"{sorted(set(labels.tolist()))}"
            )
        return labels

    def shard(self, rank: int, world_size: int) -> None:  # noqa: B027 (most have nothing to share out)
        """Let `draw` use this process's share, where the source has something to share out."""

    @contextmanager
    def use_all(self) -> Iterator[None]:
        """Let `draw` use everything again for a while: evaluation draws the same on every
        process.
        """
        yield


class NoCondition(Conditions):
    """The network takes no condition; it cannot be guided.

    Args:
        owner: who takes none, for the message.
    """

    def __init__(self, owner: str = "a network without conditions") -> None:
        self.owner = owner

    def describe(self) -> dict[str, Any]:
        return {"kind": "none"}

    def draw(self, n: int, generator: Generator) -> None:
        return None

    def null(self, condition: Any) -> Any:
        raise ValueError(
            f"{self.owner} has no null condition, so it cannot be guided: set guidance_range to "
            "[1, 1], or override null_condition"
        )


class Classes(Conditions):
    """Labels 0 .. num_classes - 1, drawn uniformly; the label num_classes is "no class".

    Args:
        num_classes: number of classes without the null class.

    >>> Classes(10).null(torch.tensor([3]))
    tensor([10])
    """

    def __init__(self, num_classes: int) -> None:
        check_counts(1, num_classes=num_classes)
        self.num_classes = num_classes

    def describe(self) -> dict[str, Any]:
        return {"kind": "classes", "num_classes": self.num_classes}

    def draw(self, n: int, generator: Generator) -> Tensor:
        return torch.randint(self.num_classes, (n,), generator=generator, device=generator.device)

    def null(self, condition: Tensor) -> Tensor:
        return torch.full_like(condition, self.num_classes)


class Prompts(Conditions):
    """Text embeddings that `freeflow embed` wrote, drawn uniformly; read from disk as they are
    drawn.

    In a run of several processes each draws from its own block of prompts, so that it opens only
    the files of that block.

    Args:
        folder: of index.json, the shards prompts_*.safetensors and null.safetensors.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: an index that this version cannot read, or files that do not fit it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        self.names: list[str] = self.index["tensors"]
        self.lengths: dict[str, int] = self.index["lengths"]
        self._first = [shard["first"] for shard in self.index["shards"]]
        self._share = range(len(self))
        self._null = {
            name: self._pad(name, tensor)
            for name, tensor in self._read("null.safetensors", [0]).items()
        }

    def describe(self) -> dict[str, Any]:
        return {"kind": "prompts", "what": f"embedded prompts ({', '.join(self.names)})"}

    def __len__(self) -> int:
        return int(self.index["count"])

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        place = torch.randint(
            len(self._share), (n,), generator=generator, device=generator.device
        ).cpu()
        return self.rows(place + self._share.start, generator.device)

    def rows(self, index: Tensor, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return the embeddings of the prompts with these numbers [B] (lines of prompts.txt from
        0), padded to one length.
        """
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"expected prompts 0 .. {len(self) - 1}, got {index.tolist()}")
        shards = torch.bucketize(index, torch.tensor(self._first), right=True) - 1
        found: dict[str, list[Tensor]] = {
            name: [torch.empty(0)] * len(index) for name in self.names
        }
        for k in shards.unique().tolist():
            places = (shards == k).nonzero()[:, 0].tolist()
            rows = self._read(
                self.index["shards"][k]["file"], [int(index[i]) - self._first[k] for i in places]
            )
            for name, tensor in rows.items():
                for i, row in zip(places, self._pad(name, tensor), strict=True):
                    found[name][i] = row
        return {
            name: torch.stack(tensors).to(device) if tensors else self._null[name][:0].to(device)
            for name, tensors in found.items()
        }

    def null(self, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: self._null[name].to(tensor.device).expand_as(tensor).clone()
            for name, tensor in condition.items()
        }

    def shard(self, rank: int, world_size: int) -> None:
        start, end = rank * len(self) // world_size, (rank + 1) * len(self) // world_size
        self._share = range(start, max(end, start + 1))

    @contextmanager
    def use_all(self) -> Iterator[None]:
        share, self._share = self._share, range(len(self))
        try:
            yield
        finally:
            self._share = share

    def _read(self, file: str, rows: list[int]) -> dict[str, Tensor]:
        """Rows of a shard; only their part of the file is read."""
        path = self.folder / file
        if not path.is_file():
            raise FileNotFoundError(
                f"no {file} in {self.folder}, which its index.json names: run freeflow embed again"
            )
        try:
            with safe_open(path, "pt") as shard:
                return {
                    name: torch.cat([shard.get_slice(name)[i : i + 1] for i in rows])
                    for name in self.names
                }
        except (SafetensorError, OSError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not fit its index.json ({error}): run freeflow embed again"
            ) from error

    def _pad(self, name: str, tensor: Tensor) -> Tensor:
        """[B, L, ...] to the folder's length; embeddings and masks end in zeros."""
        missing = self.lengths[name] - tensor.shape[1] if name in self.lengths else 0
        return pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, missing]) if missing else tensor
