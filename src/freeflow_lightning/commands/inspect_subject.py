"""What freeflow inspect looks at, found from its options."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from freeflow_lightning.callbacks import PostHocEMA, StudentEMA
from freeflow_lightning.commands.config import find_precision, read_distillation, refuse_overrides
from freeflow_lightning.nets import LoRA
from freeflow_lightning.profiling.step_memory import PrecisionName, SizeName, sit_teacher
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.teachers import SiTTeacher, Teacher


class InspectSubject(NamedTuple):
    """What is inspected, and how a module is made of a stand-in for its teacher.

    Args:
        name: how it is called.
        teacher: asked for its costs, and for everything else unless `costs_only`.
        make: builds the recipe around a teacher.
        costs_only: the teacher has no weights to be looked at.
        guided: whether the recipe asks it for guided velocities.
        batch_size: of the costs, as is `precision`.
        precision: one of the three that are told apart.
        averages: moving averages of the student.
        has_network: whether the config gives the student a network of its own.
        student_lr: the config's.
    """

    name: str
    teacher: Teacher
    make: Callable[[Teacher], Distillation]
    costs_only: bool = False
    guided: bool = True
    batch_size: int = 64
    precision: PrecisionName = "bf16-mixed"
    averages: int = 1
    has_network: bool = False
    student_lr: float | None = None


def find_subject(
    checkpoint: str | None,
    teacher: Teacher | None,
    config: str | None,
    size: SizeName | None,
    image_size: int,
    lora: LoRA | None,
    overrides: list[str] | None,
    precision: PrecisionName | None,
) -> InspectSubject:
    """Return the one thing that the options of `freeflow inspect` name (Raises: ValueError for
    none, for several, or for options that do not go with it).
    """
    options = {"TEACHER": checkpoint, "--teacher": teacher, "--config": config, "--size": size}
    given = [name for name, value in options.items() if value]
    if len(given) != 1:
        raise ValueError(
            f"expected one thing to inspect, got {' and '.join(given) or 'nothing'}: give a "
            "weight file (or embedded:digits), --teacher CLASS, --config FILE or --size XL/2"
        )
    refuse_overrides(overrides, config)
    if lora and config:
        raise ValueError(
            "a config says itself which networks are adapters: change it with --model.lora "
            "instead of --lora"
        )
    if config:
        return _of_config(config, overrides or [], precision)
    if size:
        subject = _of_teacher(f"SiT-{size}", sit_teacher(size, image_size), lora)
        subject = subject._replace(costs_only=True)
    else:
        found = SiTTeacher(checkpoint) if checkpoint else teacher
        assert found is not None  # one of four was given
        name = type(found).__name__
        subject = _of_teacher(f"{checkpoint}: {name}" if checkpoint else name, found, lora)
    return subject if precision is None else subject._replace(precision=precision)


def can_be_guided(teacher: Teacher) -> bool:
    """Return whether it has conditions, and is no network whose table of classes lacks the null
    class.
    """
    if isinstance(teacher, SiTTeacher) and not teacher.function.net.null_class:
        return False
    return teacher.draw_condition(1, torch.Generator().manual_seed(0)) is not None


def _of_teacher(name: str, teacher: Teacher, lora: LoRA | None) -> InspectSubject:
    """Return a teacher by itself, distilled by FreeFlow as far as it can be guided."""
    guided = can_be_guided(teacher)
    unguided = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0}
    arguments: dict[str, Any] = {} if guided else unguided
    return InspectSubject(
        name, teacher, partial(FreeFlowModule, lora=lora, **arguments), guided=guided
    )


def count_configured_averages(callbacks: list[Any]) -> int:
    """Return the averages that the callbacks of a config keep."""
    settings = {StudentEMA.__name__: "decays", PostHocEMA.__name__: "lengths"}
    found = 0
    for callback in callbacks:
        name = settings.get(callback.class_path.rpartition(".")[2])
        found += len(callback.init_args[name]) if name else 0
    return found


def _of_config(path: str, overrides: list[str], precision: PrecisionName | None) -> InspectSubject:
    """Return the teacher of a config, built; everything else as the config says, to be built around
    a stand-in.
    """
    config = read_distillation(path, overrides)
    guidance_range = tuple(config.arguments.get("guidance_range", (1.0, 2.0)))
    return InspectSubject(
        name=f"{path}: {type(config.teacher).__name__}",
        teacher=config.teacher,
        make=config.make,
        guided=guidance_range != (1.0, 1.0),
        batch_size=config.fit.data.init_args.batch_size,
        precision=find_precision(precision, config.fit.trainer),
        averages=count_configured_averages(config.fit.trainer.callbacks or []),
        has_network=config.arguments.get("network") is not None,
        student_lr=config.arguments.get("student_lr"),
    )
