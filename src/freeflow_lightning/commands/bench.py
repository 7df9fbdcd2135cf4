"""freeflow bench: a training step, measured against the bare network evaluations that it needs."""

import logging
import sys
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback
from rich.console import Console

from freeflow_lightning.callbacks import (
    PeriodicFID,
)
from freeflow_lightning.commands.config import PRECISIONS_OF, build, parsed_fit
from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.bench import (
    show,
)
from freeflow_lightning.profiling.bench import (
    Subject,
    as_figures,
    from_size,
    measure,
)
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
    if overrides and not config:
        raise ValueError(
            f"{overrides[0]} changes a config: give one with --config, or leave it out"
        )
    if steps < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"expected at least one step and a batch of at least one, got {steps} and {batch_size}"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    device = pick_device(where.device)
    if output is not None:
        claim_names(Path(output).parent, Path(output).name, "bench", [])
    subject = (
        from_config(config, overrides or []) if config else from_size(size or "S/2", image_size)
    )
    subject = subject._replace(
        batch_size=batch_size or subject.batch_size, precision=precision or subject.precision
    )
    report = measure(subject, device, rounds=steps, compiled=compile)
    facts = {"command": " ".join(["freeflow", *sys.argv[1:]]), "machine": machine(device)}
    figures = facts | as_figures(report) | {"compiled": report.compiled}
    show(Console(highlight=False), report, figures)
    if output is not None:
        publish(Path(output).parent, Path(output).name, "bench", figures, {})
        print(f"all figures in {output}")


def from_config(path: str, overrides: list[str]) -> Subject:
    """A config of fit: its model, and of its trainer what counts for a step."""
    fit = parsed_fit(path, overrides)
    model = fit.model.as_dict()
    if "teacher" not in model.get("init_args", {}):
        raise ValueError(
            f"{path} distils no teacher: its model is {model['class_path']}, expected a "
            f"Distillation"
        )
    teacher = build(Teacher, model["init_args"].pop("teacher"))

    def make(given: Teacher) -> Distillation:
        module = build(Distillation, model | {"init_args": model["init_args"] | {"teacher": given}})
        module.check_teacher = False
        return module

    callbacks = [build(Callback, callback.as_dict()) for callback in fit.trainer.callbacks or []]
    data, settings = fit.data.init_args, fit.trainer
    precision = str(settings.precision or 32)
    if precision not in PRECISIONS_OF:
        raise ValueError(
            f"precision {precision!r} is not measured: give --precision, one of "
            f"{set(PRECISIONS_OF.values())}"
        )
    devices = settings.devices if isinstance(settings.devices, int) else 1
    return Subject(
        name=f"{path}: {type(teacher).__name__}",
        teacher=teacher,
        make=make,
        batch_size=data.batch_size,
        precision=PRECISIONS_OF[precision],  # type: ignore[arg-type]  # of costs.PRECISIONS
        callbacks=callbacks,
        log_every=settings.log_every_n_steps or 50,
        clip=settings.gradient_clip_val,
        run_steps=settings.max_steps,
        run_batch=data.batch_size * devices * settings.num_nodes * settings.accumulate_grad_batches,
        fid=next((callback for callback in callbacks if isinstance(callback, PeriodicFID)), None),
        val_samples=data.val_samples,
        val_batch_size=data.val_batch_size,
        val_every=data.length,
        seed=data.seed,
    )


main = partial(run, bench, usage=USAGE)
