"""PriorDataModule: what a data-free run draws from: a length, a batch size and a seed, and no
dataset.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Generator, Tensor

from freeflow_lightning.flow import check_counts, training_generator
from freeflow_lightning.training.batch_shares import BatchShares, share_batch
from freeflow_lightning.training.trainer_facts import current_batch


class PriorBatch(NamedTuple):
    """One training batch: its size, the run's seed and its own number.

    Args:
        size: samples of this process.
        seed: the run's.
        counter: batches that this process has drawn before, over all epochs and resumed runs;
            micro-batches count.
    """

    size: int
    seed: int
    counter: int = 0

    def generator(self, rank: int, device: torch.device | str = "cpu") -> Generator:
        """Return the random numbers of this batch in the process `rank`, drawn on a device."""
        return training_generator(self.seed, rank, self.counter, device)


class IndexBatch(NamedTuple):
    """Sample indices [B]; sample i is a function of (seed, i). Indices from `total` on are padding,
    to be left out.
    """

    indices: Tensor
    seed: int
    total: int


class PriorStream:
    """`length` equal batches an epoch, resumable in the middle of one.

    Args:
        batch: what each is like.
        length: batches an epoch.
        count: the number of the batch that is being fetched; always that of `batch` if not given.
        per_step: batches of an optimizer step, where a resumed run may have another number of them:
            the place in an epoch is then kept in steps.
    """

    def __init__(
        self,
        batch: PriorBatch,
        length: int,
        count: Callable[[], int] | None = None,
        per_step: int = 1,
    ) -> None:
        self.batch = batch
        self.length = length
        self._count = count
        self._per_step = per_step
        self._position = 0
        self._resume_at = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[PriorBatch]:
        start, self._resume_at = self._resume_at, 0
        for position in range(start, self.length):
            self._position = position + 1
            yield self.batch if self._count is None else self.batch._replace(counter=self._count())

    def state_dict(self) -> dict[str, int]:
        several = {"per_step": self._per_step} if self._per_step > 1 else {}
        return {"position": self._position, **several}

    def load_state_dict(self, state: dict[str, int]) -> None:
        position = state["position"] * self._per_step // state.get("per_step", 1)
        self._resume_at = self._position = position % self.length


class IndexRange:
    """The indices 0 .. count - 1 dealt to the ranks in turn, padded so that every rank sees equally
    many equal batches.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return math.ceil(self.count / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[IndexBatch]:
        for start in range(len(self)):
            place = torch.arange(start * self.batch_size, (start + 1) * self.batch_size)
            indices = place * self.world_size + self.rank
            rows = (
                indices[: max(1, int((indices < self.count).sum()))]
                if start == len(self) - 1
                else indices
            )
            yield IndexBatch(rows, self.seed, self.count)


def validation_range(trainer: Trainer) -> IndexRange:
    """Return what the trainer validates on (Raises: ValueError where that is something else than
    PriorDataModule's).
    """
    loader = trainer.val_dataloaders
    if not isinstance(loader, IndexRange):
        raise ValueError(
            f"expected the validation indices of PriorDataModule(val_samples=...), got "
            f"{type(loader).__name__}"
        )
    return loader


def validated_samples(trainer: Trainer) -> int:
    """Return how many samples a validation measures over all processes: limit_val_batches may leave
    some of them out.
    """
    indices = validation_range(trainer)
    seen = sum(trainer.num_val_batches) * indices.batch_size * indices.world_size
    return int(min(indices.count, seen))


class SettingsOnly(LightningDataModule):
    """A data module of which a checkpoint keeps nothing."""

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> NoReturn:
        """Refuse: Lightning's would unpickle what an address leads to, for nothing (Raises:
        ValueError).
        """
        raise ValueError(
            f"a checkpoint holds nothing of {cls.__name__}: construct it with its arguments"
        )


def accumulations(trainer: Trainer) -> list[int]:
    """Return the numbers of batches that a run gathers gradients of, in the order of its epochs."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    schedules = [c for c in callbacks if isinstance(c, GradientAccumulationScheduler)]
    if not schedules:
        return [trainer.accumulate_grad_batches]
    return [several for each in schedules for _, several in sorted(each.scheduling.items())]


class PriorDataModule(SettingsOnly):
    """Counters instead of data: nothing is opened, nothing is downloaded.

    Args:
        batch_size: samples per process and (micro-)batch; the paper's global batch is 256.
        length: batches per epoch; the paper's epoch is 5000 (1.5M iterations are 300 epochs, Table
            6).
        seed: seed of all noise; that of --seed_everything if not given, 0 in Python.
        val_samples: samples that each validation draws, over all processes; 0 switches validation
            off.
        val_batch_size: samples per process and validation batch.
        global_batch_size: samples of an optimizer step over all processes, however many there are
            when a run starts or goes on. Then `batch_size` is the most that a process takes at
            once, trainer.accumulate_grad_batches follows, and `length` counts optimizer steps.

    >>> next(iter(PriorDataModule(batch_size=8, seed=1).train_dataloader()))
    PriorBatch(size=8, seed=1, counter=0)
    """

    def __init__(
        self,
        batch_size: int = 256,  # Table 6
        length: int = 5000,  # Table 6: 1.5M iterations are 300 epochs
        seed: int | None = None,
        val_samples: int = 0,
        val_batch_size: int = 256,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        seed = 0 if seed is None else seed
        check_counts(1, batch_size=batch_size, length=length, val_batch_size=val_batch_size)
        check_counts(0, val_samples=val_samples)
        check_counts(-math.inf, seed=seed)
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        self.val_samples = val_samples
        self.val_batch_size = val_batch_size
        if global_batch_size is not None:
            check_counts(1, global_batch_size=global_batch_size)
        self.global_batch_size = global_batch_size
        self.shares = BatchShares(batch_size, 1)

    def setup(self, stage: str) -> None:
        """Deal a global batch to the processes that there are, and have the trainer accumulate
        (Raises: ValueError where it cannot be dealt evenly, or nothing is left to validate).
        """
        trainer = self.trainer
        if stage == "validate" and not (self.val_samples and trainer.limit_val_batches):  # type: ignore[union-attr]  # a trainer asks
            raise ValueError(
                "expected samples to validate, got none: raise data.val_samples (or "
                "trainer.limit_val_batches)"
            )
        if self.global_batch_size is None or stage != "fit" or trainer is None:
            return
        if accumulations(trainer) not in ([1], [self.shares.per_step]):
            raise ValueError(
                "data.global_batch_size says how many batches are accumulated: leave "
                "trainer.accumulate_grad_batches and GradientAccumulationScheduler out"
            )
        self.shares = share_batch(self.global_batch_size, self.batch_size, trainer.world_size)
        trainer.accumulate_grad_batches = self.shares.per_step

    def train_dataloader(self) -> PriorStream:
        self._check_accumulation()
        trainer, (size, per_step) = self.trainer, self.shares
        count = None if trainer is None else lambda: current_batch(trainer) + 1
        return PriorStream(PriorBatch(size, self.seed), self.length * per_step, count, per_step)

    def _check_accumulation(self) -> None:
        """Refuse gradients of fewer batches than they are divided by: Lightning steps at the end of
        an epoch anyway.
        """
        if self.trainer is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return
        limit, batches = self.trainer.limit_train_batches, self.length * self.shares.per_step
        length = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
        for several in accumulations(self.trainer):
            if length % several:
                raise ValueError(
                    f"expected trainer.accumulate_grad_batches to divide the {length} batches of "
                    f"an epoch, got {several}: set data.length (or trainer.limit_train_batches) "
                    "to a multiple of it"
                )

    def val_dataloader(self) -> IndexRange | list:
        if not self.val_samples:
            return []
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        return IndexRange(self.val_samples, self.val_batch_size, self.seed, rank, world_size)
