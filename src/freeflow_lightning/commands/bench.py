"""freeflow bench: a training step, measured against the bare network evaluations that it needs."""

import logging
import sys
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback
from rich.console import Console

from freeflow_lightning.callbacks import PeriodicFID
from freeflow_lightning.commands.config import (
    build_object,
    find_precision,
    read_distillation,
    refuse_overrides,
)
from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.bench import show_bench
from freeflow_lightning.commands.views.progress import parts_of, progress_bar
from freeflow_lightning.profiling.bench import PARTS_OF_BENCH, measure_step
from freeflow_lightning.profiling.bench_report import as_figures
from freeflow_lightning.profiling.bench_subject import BenchSubject, subject_of_size
from freeflow_lightning.profiling.hardware import machine
from freeflow_lightning.profiling.step_memory import PrecisionName, SizeName
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.output_folder import claim_names, publish

USAGE = """freeflow bench --config CONFIG [--model.NAME VALUE ...] [options]
       freeflow bench --size XL/2 --image_size 256 --batch_size 64 [options]

for example
       freeflow bench --config configs/digits.yaml
       freeflow bench --size B/2 --batch_size 64 --precision bf16-mixed --compile --output bench.json"""


def bench(
    config: str | None = None,
    size: SizeName | None = None,
    image_size: int = 256,
    batch_size: int | None = None,
    precision: PrecisionName | None = None,
    compile: bool = False,
    steps: int = 20,
    output: str | None = None,
    overrides: list[str] | None = None,
    *,
    where: DeviceOptions,
) -> None:
    """Time training steps, whole and in parts, beside the bare network evaluations that they need
    (the floor).

    One thread on a CPU is timed by its own CPU time, so that other programs do not count:
    OMP_NUM_THREADS=1 freeflow bench ... Nothing is saved and no validation is run. Schedules are at
    their end: no confident-region warmup, alpha = alpha_ref.

    Args:
        config: a config of `freeflow fit`; --model.*, --data.* and --trainer.* change it as in fit.
        size: instead of a config, a published size of SiT with random weights and the paper's
            settings.
        image_size: of the pictures, with --size.
        batch_size: samples per step; the config's, or 8.
        precision: 32, bf16-mixed or bf16-true; the config's, or 32.
        compile: compile student, auxiliary network and teacher. All rows are then evaluated
            (skip_idle_rows off), so that every call has a fixed shape.
        steps: rounds to take the median of: a step of the Trainer, the method alone and the bare
            evaluations, in turn.
        output: a JSON file to write everything to as well.
        overrides: set by --model.*, --data.* and --trainer.*.
        where: the device.
    """
    if (config is None) == (size is None):
        raise ValueError("expected one thing to measure: give --config FILE or --size XL/2")
    refuse_overrides(overrides, config)
    if steps < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"expected at least one step and a batch of at least one, got {steps} and {batch_size}"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    device, file = pick_device(where.device), None if output is None else Path(output)
    if file is not None:
        claim_names(file.parent, file.name, "bench", [])
    if config is not None:
        subject = subject_of_config(config, overrides or [], precision)
    else:
        subject = subject_of_size(size or "S/2", image_size, precision or "32")
    if batch_size is not None:
        subject = subject._replace(batch_size=batch_size)
    with progress_bar(True) as bar:
        begin = parts_of(bar, len(PARTS_OF_BENCH))
        report = measure_step(subject, device, rounds=steps, compiled=compile, begin=begin)
    facts = {"command": " ".join(["freeflow", *sys.argv[1:]]), "machine": machine(device)}
    figures = facts | as_figures(report)
    show_bench(Console(highlight=False), report, figures)
    if file is not None:
        publish(file.parent, file.name, "bench", figures, {})
        print(f"all figures in {output}")


def subject_of_config(
    path: str, overrides: list[str], precision: PrecisionName | None
) -> BenchSubject:
    """Return a config of fit: its model, and of its trainer what counts for a step."""
    config = read_distillation(path, overrides)
    data, settings = config.fit.data.init_args, config.fit.trainer

    def make(teacher: Teacher) -> Distillation:
        module = config.make(teacher)
        module.check_teacher = False
        return module

    callbacks = [build_object(Callback, given.as_dict()) for given in settings.callbacks or []]
    devices = settings.devices if isinstance(settings.devices, int) else 1
    batches = devices * settings.num_nodes * settings.accumulate_grad_batches
    return BenchSubject(
        name=f"{path}: {type(config.teacher).__name__}",
        teacher=config.teacher,
        make=make,
        batch_size=data.batch_size,
        precision=find_precision(precision, settings),
        callbacks=callbacks,
        log_every=settings.log_every_n_steps or 50,
        clip=settings.gradient_clip_val,
        run_steps=settings.max_steps,
        run_batch=data.batch_size * batches,
        fid=next((callback for callback in callbacks if isinstance(callback, PeriodicFID)), None),
        val_samples=data.val_samples,
        val_batch_size=data.val_batch_size,
        val_every=data.length,
        seed=data.seed,
    )


main = partial(run, bench, usage=USAGE)
