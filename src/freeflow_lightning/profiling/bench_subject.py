"""What is benched: a recipe around its teacher, and the settings of its run."""

from collections.abc import Callable
from typing import NamedTuple

from lightning.pytorch import Callback

from freeflow_lightning.callbacks import PeriodicFID, StudentEMA
from freeflow_lightning.callbacks.averages import MovingAverages
from freeflow_lightning.profiling.step_memory import PrecisionName, SizeName, sit_teacher
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.teachers import Teacher

TABLE_6_STEPS = {256: 1_500_000, 512: 1_000_000}


TABLE_6_BATCH = 256


class BenchSubject(NamedTuple):
    """What is measured: how to build it around a teacher, and the settings of its run."""

    name: str
    teacher: Teacher
    make: Callable[[Teacher], Distillation]
    batch_size: int
    precision: PrecisionName
    callbacks: list[Callback]
    log_every: int = 50
    clip: float | None = None
    run_steps: int = 0
    run_batch: int = TABLE_6_BATCH
    fid: PeriodicFID | None = None
    val_samples: int = 0
    val_batch_size: int = 1
    val_every: int = 1
    seed: int = 0


def subject_of_size(size: SizeName, image_size: int, precision: PrecisionName) -> BenchSubject:
    """Return a SiT of a published size with random weights, and the paper's settings."""

    def make(teacher: Teacher) -> Distillation:
        # random weights have no direction of time
        return FreeFlowModule(teacher, check_teacher=False)

    return BenchSubject(
        name=f"SiT-{size} with random weights, {image_size} x {image_size}",
        teacher=sit_teacher(size, image_size),
        make=make,
        batch_size=8,
        precision=precision,
        callbacks=[StudentEMA()],
        run_steps=TABLE_6_STEPS.get(image_size, TABLE_6_STEPS[512]),
    )


def count_averages(subject: BenchSubject) -> int:
    """Moving averages of the student."""
    return sum(len(x.names) for x in subject.callbacks if isinstance(x, MovingAverages))
