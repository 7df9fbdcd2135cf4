"""freeflow inspect: what a teacher is, whether it is sound, and what distilling it costs."""

from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.commands.config import PRECISIONS_OF, Subject, build, parsed_fit
from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.inspect import (
    draw_picture,
    introduce,
    show_checks,
    show_costs,
)
from freeflow_lightning.nets import LoRA
from freeflow_lightning.profiling.step_memory import (
    PrecisionName,
    SizeName,
    sit_teacher,
    without_data,
)
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import SiTTeacher, Teacher
from freeflow_lightning.training.output_folder import claim_picture

USAGE = """freeflow inspect WEIGHTS [options]
       freeflow inspect --teacher CLASS --teacher.ARGUMENT VALUE ... [options]
       freeflow inspect --config CONFIG [--model.NAME VALUE ...] [options]
       freeflow inspect --size XL/2 --image_size 512 [options]

for example
       freeflow inspect embedded:digits
       freeflow inspect --teacher SiTTeacher --teacher.checkpoint last.pt --teacher.convention repa
       freeflow inspect --config configs/sit_xl2_256.yaml --batch_size 32"""


def inspect(
    checkpoint: str | None = None,
    teacher: Teacher | None = None,
    config: str | None = None,
    size: SizeName | None = None,
    image_size: int = 256,
    batch_size: int | None = None,
    precision: PrecisionName | None = None,
    averages: int | None = None,
    lora: LoRA | None = None,
    output: str = "inspect.png",
    no_samples: bool = False,
    num_samples: int = 8,
    guidance: float = 1.5,
    steps: int = 32,
    seed: int = 0,
    overrides: list[str] | None = None,
    *,
    where: DeviceOptions,
) -> None:
    """Look at a teacher before it is distilled: what it is, whether its velocity is sound, what a
    training step costs.

    Its velocity is checked for shape, numbers, sign, direction of time and more; costs are
    evaluations and memory; a row of its samples is drawn as a picture. The exit status is 1 if
    something is broken. With --size: the costs of a SiT, without any weights.

    Args:
        checkpoint: weights of a SiT; may be given as the first word without the option.
        teacher: a Teacher: its class, then its arguments as --teacher.NAME.
        config: a config of `freeflow fit`: its teacher, networks, batch size, precision and
            averages; --model.*, --data.* and --trainer.* change it as in fit.
        size: costs only, of a published size of SiT.
        image_size: of the pictures, with --size.
        batch_size: samples per process and micro-batch; the config's, or 64.
        precision: 32, bf16-mixed or bf16-true; the config's, or bf16-mixed.
        averages: moving averages of the student; the config's, or 1.
        lora: costs of adapters, --lora.networks "[auxiliary]" or --lora.rank 64 for both networks;
            a config's is --model.lora.
        output: the picture to write.
        no_samples: draw none.
        num_samples: how many.
        guidance: guidance scale of the samples; without effect on a teacher without conditions.
        steps: Heun steps of the samples.
        seed: of checks and samples.
        overrides: set by --model.*, --data.* and --trainer.*.
        where: the device of checks and samples.
    """
    given = [
        name
        for name, x in {
            "TEACHER": checkpoint,
            "--teacher": teacher,
            "--config": config,
            "--size": size,
        }.items()
        if x
    ]
    if len(given) != 1:
        raise ValueError(
            f"expected one thing to inspect, got {' and '.join(given) or 'nothing'}: give a "
            "weight file (or embedded:digits), --teacher CLASS, --config FILE or --size XL/2"
        )
    if overrides and not config:
        raise ValueError(
            f"{overrides[0]} changes a config: give one with --config, or leave it out"
        )
    if lora and config:
        raise ValueError(
            "a config says itself which networks are adapters: change it with --model.lora "
            "instead of --lora"
        )
    subject = _subject(checkpoint, teacher, config, size, lora, overrides or [])
    console, device = Console(highlight=False), pick_device(where.device)
    if subject.teacher is None:
        assert size is not None
        show_costs(console, subject, sit_teacher(size, image_size), batch_size, precision, averages)
        return
    stand_in = without_data(subject.teacher)
    subject.teacher.to(device).eval().requires_grad_(False)
    introduce(console, subject, subject.teacher, precision)
    show_checks(console, subject, subject.teacher, device, seed)
    show_costs(console, subject, stand_in, batch_size, precision, averages)
    if not no_samples:
        claim_picture(Path(output), "inspect")
        sampler = TeacherSampler(
            subject.teacher, "heun", steps, guidance if subject.guided else 1.0
        )
        draw_picture(console, sampler, Path(output), num_samples, seed, device)


def _subject(
    checkpoint: str | None,
    teacher: Teacher | None,
    config: str | None,
    size: SizeName | None,
    lora: LoRA | None,
    overrides: list[str],
) -> Subject:
    if config:
        return _from_config(config, overrides)
    if size:
        return Subject(f"SiT-{size}", None, partial(FreeFlowModule, lora=lora))
    found = SiTTeacher(checkpoint) if checkpoint else teacher
    assert found is not None  # one of four was given
    name = f"{checkpoint}: {type(found).__name__}" if checkpoint else type(found).__name__
    if can_be_guided(found):
        return Subject(name, found, partial(FreeFlowModule, lora=lora))
    unguided = partial(
        FreeFlowModule, guidance_range=(1.0, 1.0), evaluation_guidance=1.0, lora=lora
    )
    return Subject(name, found, unguided, guided=False)


def can_be_guided(teacher: Teacher) -> bool:
    """Whether it has conditions, and is no network whose table of classes lacks the null class."""
    if isinstance(teacher, SiTTeacher) and not teacher.function.net.null_class:
        return False
    return teacher.draw_condition(1, torch.Generator().manual_seed(0)) is not None


def _from_config(path: str, overrides: list[str]) -> Subject:
    """The teacher of a config, built; everything else as the config says, to be built around a
    stand-in.
    """
    fit = parsed_fit(path, overrides)
    model = fit.model.as_dict()
    if "teacher" not in model.get("init_args", {}):
        raise ValueError(
            f"{path} distils no teacher: its model is {model['class_path']}, expected a "
            f"Distillation"
        )
    teacher = build(Teacher, model["init_args"].pop("teacher"))
    precision = fit.trainer.precision
    if precision is not None and str(precision) not in PRECISIONS_OF:
        raise ValueError(
            f"the costs of precision {precision!r} are not known: give --precision, one of "
            f"{set(PRECISIONS_OF.values())}"
        )

    def make(stand_in: Teacher) -> Distillation:
        return build(
            Distillation, model | {"init_args": model["init_args"] | {"teacher": stand_in}}
        )

    callbacks = fit.trainer.callbacks or []
    decays = [
        callback.init_args.decays
        for callback in callbacks
        if callback.class_path.endswith(f".{StudentEMA.__name__}")
    ]
    return Subject(
        name=f"{path}: {type(teacher).__name__}",
        teacher=teacher,
        make=make,
        guided=tuple(model["init_args"].get("guidance_range", (1.0, 2.0))) != (1.0, 1.0),
        batch_size=fit.data.init_args.batch_size,
        precision=PRECISIONS_OF[str(precision or 32)],
        averages=sum(map(len, decays)),
        has_network=model["init_args"].get("network") is not None,
        student_lr=model["init_args"].get("student_lr"),
    )


main = partial(run, inspect, usage=USAGE)
