"""freeflow inspect: what a teacher is, whether it is sound, and what distilling it costs."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.commands.config import build, parsed_fit
from freeflow_lightning.commands.fit import quiet
from freeflow_lightning.commands.parser import BriefErrors, brief
from freeflow_lightning.evaluation.reference import pictures
from freeflow_lightning.nets import LoRA
from freeflow_lightning.profiling.step_memory import (
    NOT_COUNTED,
    Costs,
    PrecisionName,
    SizeName,
    estimate,
    sit_teacher,
    without_data,
)
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.freeflow import FreeFlowModule, bfloat16_error, step_size
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.teacher_sampler import Sampler
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import SiTTeacher, Teacher, check_convention, examine
from freeflow_lightning.training.output_folder import claim_picture, write_bytes

GIB = 2**30
PRECISIONS_OF = {"32": "32", "32-true": "32", "bf16": "bf16-mixed", "bf16-mixed": "bf16-mixed", "bf16-true": "bf16-true"}
"""Lightning's names and the three that are told apart."""


USAGE = """freeflow inspect WEIGHTS [options]
       freeflow inspect --teacher CLASS --teacher.ARGUMENT VALUE ... [options]
       freeflow inspect --config CONFIG [--model.NAME VALUE ...] [options]
       freeflow inspect --size XL/2 --image_size 512 [options]

for example
       freeflow inspect embedded:digits
       freeflow inspect --teacher SiTTeacher --teacher.checkpoint last.pt --teacher.convention repa
       freeflow inspect --config configs/sit_xl2_256.yaml --batch_size 32"""

ABOUT = (
    "Looks at a teacher before it is distilled: what it is, whether its velocity is sound (shape, numbers, sign, direction of "
    "time ...), what a training step costs in evaluations and memory, and a row of its samples as a picture. The exit status "
    "is 1 if something is broken. With --size: the costs of a SiT, without any weights."
)


class Subject(NamedTuple):
    """What is inspected: a teacher (None where only costs are asked for), and how a module is made of a stand-in for it."""

    name: str
    teacher: Teacher | None
    make: Callable[[Teacher], FreeFlowModule]
    guided: bool = True
    batch_size: int = 64
    precision: str = "bf16-mixed"
    averages: int = 1
    has_network: bool = False
    """Whether the config gives the student a network of its own."""
    student_lr: float | None = None


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
    device: str = "auto",
    overrides: list[str] | None = None,
) -> None:
    """Look at a teacher before distilling it: what `freeflow inspect` does.

    Args:
        checkpoint: weights of a SiT; may be given as the first word without the option.
        teacher: a Teacher: its class, then its arguments as --teacher.NAME.
        config: a config of `freeflow fit`: its teacher, networks, batch size, precision and averages; --model.*, --data.* and
            --trainer.* change it as in fit.
        size: costs only, of a published size of SiT.
        image_size: of the pictures, with --size.
        batch_size: samples per process and micro-batch; the config's, or 64.
        precision: 32, bf16-mixed or bf16-true; the config's, or bf16-mixed.
        averages: moving averages of the student; the config's, or 1.
        lora: costs of adapters, --lora.networks "[auxiliary]" or --lora.rank 64 for both networks; a config's is --model.lora.
        output: the picture to write.
        no_samples: draw none.
        num_samples: how many.
        guidance: guidance scale of the samples; without effect on a teacher without conditions.
        steps: Heun steps of the samples.
        seed: of checks and samples.
        device: where checks and samples run: cpu, cuda, ...; auto takes an accelerator if there is one.
        overrides: set by --model.*, --data.* and --trainer.*.
    """
    given = [name for name, x in {"TEACHER": checkpoint, "--teacher": teacher, "--config": config, "--size": size}.items() if x]
    if len(given) != 1:
        raise ValueError(
            f"expected one thing to inspect, got {' and '.join(given) or 'nothing'}: give a weight file (or embedded:digits), "
            "--teacher CLASS, --config FILE or --size XL/2"
        )
    if overrides and not config:
        raise ValueError(f"{overrides[0]} changes a config: give one with --config, or leave it out")
    if lora and config:
        raise ValueError("a config says itself which networks are adapters: change it with --model.lora instead of --lora")
    subject = _subject(checkpoint, teacher, config, size, lora, overrides or [])
    console, where = Console(highlight=False), pick_device(device)
    if subject.teacher is None:
        assert size is not None
        _show_costs(console, subject, sit_teacher(size, image_size), batch_size, precision, averages)
        return
    stand_in = without_data(subject.teacher)
    subject.teacher.to(where).eval().requires_grad_(False)
    _introduce(console, subject, subject.teacher, precision)
    _check(console, subject, subject.teacher, where, seed)
    _show_costs(console, subject, stand_in, batch_size, precision, averages)
    if not no_samples:
        claim_picture(Path(output), "inspect")
        sampler = Sampler("heun", steps, guidance if subject.guided else 1.0)
        _draw(console, subject.teacher, Path(output), num_samples, sampler, seed, where)


# What is inspected


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
    unguided = partial(FreeFlowModule, guidance_range=(1.0, 1.0), evaluation_guidance=1.0, lora=lora)
    return Subject(name, found, unguided, guided=False)


def can_be_guided(teacher: Teacher) -> bool:
    """Whether it has conditions, and is no network whose table of classes lacks the null class."""
    if isinstance(teacher, SiTTeacher) and not teacher.function.net.null_class:
        return False
    return teacher.draw_condition(1, torch.Generator().manual_seed(0)) is not None


def _from_config(path: str, overrides: list[str]) -> Subject:
    """The teacher of a config, built; everything else as the config says, to be built around a stand-in."""
    fit = parsed_fit(path, overrides)
    model = fit.model.as_dict()
    if "teacher" not in model.get("init_args", {}):
        raise ValueError(f"{path} distils no teacher: its model is {model['class_path']}, expected FreeFlowModule")
    teacher = build(Teacher, model["init_args"].pop("teacher"))
    precision = fit.trainer.precision
    if precision is not None and str(precision) not in PRECISIONS_OF:
        raise ValueError(
            f"the costs of precision {precision!r} are not known: give --precision, one of {set(PRECISIONS_OF.values())}"
        )

    def make(stand_in: Teacher) -> FreeFlowModule:
        return build(Recipe, model | {"init_args": model["init_args"] | {"teacher": stand_in}})

    callbacks = fit.trainer.callbacks or []
    decays = [callback.init_args.decays for callback in callbacks if callback.class_path.endswith(f".{StudentEMA.__name__}")]
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


# What is shown


def _introduce(console: Console, subject: Subject, teacher: Teacher, precision: str | None) -> None:
    """What the teacher is, and by what the student's learning rate is divided."""
    table = _table("", " ")
    table.show_header = False
    table.add_row("sample_shape", " x ".join(map(str, teacher.sample_shape)))
    table.add_row("classes", _classes(teacher))
    table.add_row("parameters", f"{sum(p.numel() for p in teacher.parameters()):,}")
    for note in teacher.notes if isinstance(teacher, SiTTeacher) else ():
        table.add_row("", note)
    if isinstance(teacher, SiTTeacher):
        table.add_row("convention", teacher.function.convention)
    for line in _steps(subject, teacher, precision):
        table.add_row("student's step", line)
    console.print(subject.name, style="bold", markup=False, soft_wrap=True)
    console.print(table)


def _classes(teacher: Teacher) -> str:
    if not teacher.num_classes:
        return "none"
    if isinstance(teacher, SiTTeacher) and not teacher.function.net.null_class:
        return f"{teacher.num_classes}, no null class: it cannot be guided"
    return f"{teacher.num_classes}, null class {teacher.num_classes}"


@torch.no_grad()
def _steps(subject: Subject, teacher: Teacher, precision: str | None) -> list[str]:
    """The student's learning rate, and what bfloat16 would do to it."""
    if subject.has_network:
        return ["student_lr as it is: a network of its own predicts u"]
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    scale = float(teacher.output_scale(torch.ones(1, device=device)))
    if scale == 1:
        return ["student_lr as it is: the network predicts a velocity"]
    problem = bfloat16_error(scale, precision or subject.precision)
    return [step_size(subject.student_lr, scale), *([problem] if problem else [])]


def _check(console: Console, subject: Subject, teacher: Teacher, device: torch.device, seed: int) -> None:
    """The findings as a table; the first problem as an error."""
    table = _table("check", " ", "seen")
    findings = list(
        examine(
            teacher,
            guided=subject.guided,
            device=device,
            seed=seed,
            starts_student=not subject.has_network,
        )
    )
    for finding in findings:
        table.add_row(finding.check, "[red]BROKEN" if finding.problem else "[green]ok", finding.evidence)
    if findings[-1].problem:
        console.print(table)
        findings[-1].raise_if_broken()
    if not subject.guided:
        table.add_row("null condition", "-", "not needed without guidance")
    convention = check_convention(teacher, device=device, seed=seed)
    mark = {"right": "[green]ok", "unclear": "[yellow]unclear"}.get(convention.verdict, "[red]BROKEN")
    table.add_row("sign and time", mark, f"{convention.verdict}; correlation and spread at t = 1:")
    for turned, reading in convention.readings.items():
        label = turned if turned == "as it is" else f"{turned} turned"
        more = "" if reading.imbalance is None else f", imbalance {reading.imbalance:.2f}"
        table.add_row("", "", f"  {label:<20} {reading.correlation:+.2f}, {reading.spread:.2f}{more}")
    seen = convention.size_problem or f"std(u) / std(z) = {convention.size:.2f} at t = 1"
    table.add_row("spread at t = 1", "[yellow]look" if convention.size_problem else "[green]ok", seen)
    console.print(table)
    convention.raise_if_wrong()


def _show_costs(
    console: Console,
    subject: Subject,
    stand_in: Teacher,
    batch_size: int | None,
    precision: str | None,
    averages: int | None,
) -> None:
    """Networks and memory; where the step cannot be made or followed, why not."""
    try:
        costs = estimate(
            lambda: subject.make(stand_in),
            batch_size=subject.batch_size if batch_size is None else batch_size,
            precision=subject.precision if precision is None else precision,  # type: ignore[arg-type]  # of PRECISIONS
            averages=subject.averages if averages is None else averages,
        )
    except ValueError as error:
        if subject.teacher is None or batch_size is not None:
            raise
        console.print(f"Costs: not known: {brief(str(error))}\n", markup=False)
        return
    console.print(_networks(costs))
    console.print(f"{_si(costs.flops)}FLOP per sample, {_si(costs.flops * costs.batch_size)}FLOP per step, backward included\n")
    console.print(_memory(costs))
    console.print(NOT_COUNTED + "\n")


def _networks(costs: Costs) -> Table:
    rows = costs.batch_size
    table = _table("network", "parameters", "evaluations / sample", f"/ step of {rows}")
    for name, parameters in costs.parameters.items():
        evaluations = costs.evaluations[name]
        table.add_row(name, f"{parameters:,}", f"{evaluations:g}", f"{evaluations * rows:,.0f}")
    total = sum(costs.evaluations.values())
    table.add_row("together", f"{sum(costs.parameters.values()):,}", f"{total:g}", f"{total * rows:,.0f}", style="bold")
    return table


def _memory(costs: Costs) -> Table:
    table = _table(f"memory per process, batch {costs.batch_size}, precision {costs.precision}", "")
    trained = " + ".join(name for name in costs.weights if name not in ("teacher", "average"))
    for name, size in costs.weights.items():
        table.add_row({"average": "moving averages (EMA)"}.get(name, f"weights of the {name}"), _size(size))
    table.add_row(f"optimizer (Adam: {trained})", _size(costs.optimizer))
    table.add_row(f"gradients ({trained})", _size(costs.gradients))
    table.add_row("activations kept for the backward pass", _size(costs.activations), end_section=True)
    for phase, size in costs.peaks.items():
        table.add_row(
            f"most at once in the {phase}" + (" pass" if phase != "update" else ""),
            _size(size),
            style="bold" if size == costs.peak else "",
        )
    return table


def _draw(
    console: Console, teacher: Teacher, path: Path, count: int, sampler: Sampler, seed: int, device: torch.device
) -> None:
    """A row of samples, of the classes in turn."""
    if count < 1 or sampler.steps < 1:
        raise ValueError(f"expected at least one sample and one step, got {count} and {sampler.steps}")
    index = torch.arange(count)
    with torch.no_grad():
        z, condition = teacher.draw_indexed(index, seed=seed, stream="inspect", device=device)
        if teacher.num_classes:
            condition = teacher.class_condition((index * teacher.num_classes // count).to(device))
        x = sampler(teacher, z, condition)
        try:
            drawn = pictures(teacher, x).cpu()
        except FileNotFoundError as error:  # a VAE that is not here
            console.print(f"No picture: {error}", markup=False)
            return
    guided = f", guidance {sampler.guidance:g}" if sampler.guidance != 1 else ""
    name = f"teacher, {sampler.steps} {sampler.method} steps{guided}"
    if drawn.ndim == 4 and drawn.shape[1] in (1, 3):
        write_bytes(path, plots.png(plots.rows({name: drawn}), 200, "freeflow inspect"))
    elif drawn.shape[1:] == (2,):
        write_bytes(path, plots.png(plots.points({name: drawn}), maker="freeflow inspect"))
    else:
        hint = "; if they are latents, give their VAE: --teacher SiTTeacher --teacher.vae stabilityai/sd-vae-ft-ema ..."
        console.print(f"No picture: samples of shape {list(drawn.shape[1:])}, all finite{hint}", markup=False)
        return
    console.print(f"{count} samples ({name}) in {path}", markup=False)


def _table(*columns: str) -> Table:
    """A table whose first column and whose columns of words are left-aligned."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and column not in (" ", "seen") else "left")
    return table


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _si(count: float) -> str:
    """A count with a decimal prefix.

    >>> _si(1.9e12)
    '1.9 T'
    """
    for power, prefix in ((15, "P"), (12, "T"), (9, "G")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {prefix}"
    return f"{count / 1e6:.3g} M"


# The command line


def arrange(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options of inspect, a leading word taken as --checkpoint; and those that are for the config.

    >>> arrange(["w.pt", "--steps", "4", "--model.alpha_ref", "0.6", "--data.batch_size=8"])
    (['--checkpoint', 'w.pt', '--steps', '4'], ['--model.alpha_ref', '0.6', '--data.batch_size=8'])
    """
    own: list[str] = ["--checkpoint"] if arguments and not arguments[0].startswith("-") else []
    overrides: list[str] = []
    target = own
    for word in arguments:
        if word.startswith("--"):
            target = overrides if word.startswith(("--model.", "--data.", "--trainer.")) else own
        target.append(word)
    return own, overrides


def main() -> None:
    """Parse the command line of `freeflow inspect`."""
    quiet()
    parser = BriefErrors(prog="freeflow inspect", usage=USAGE, description=ABOUT)
    parser.add_function_arguments(inspect, as_group=False, skip={"no_samples", "overrides"})
    parser.add_argument("--no_samples", action="store_true", help="Draw none.")
    own, overrides = arrange(sys.argv[2:])
    chosen = parser.instantiate_classes(parser.parse_args(own))
    inspect(**chosen.as_dict(), overrides=overrides)
