"""What freeflow inspect shows: what a teacher is, what is wrong with it, and what distilling it
costs.
"""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from freeflow_lightning.commands.brief import brief
from freeflow_lightning.commands.inspect_subject import InspectSubject
from freeflow_lightning.metrics.class_names import class_names
from freeflow_lightning.nets import device_of
from freeflow_lightning.profiling.step_memory import NOT_COUNTED, Costs, estimate
from freeflow_lightning.recipes.student_rate import bfloat16_error, step_size
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.picture_rows import caption_classes, picture_rows
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import SiTTeacher, Teacher, check_contract, check_convention
from freeflow_lightning.teachers.sit_velocity import convention_name
from freeflow_lightning.training.output_folder import write_bytes

GIB = 2**30


def introduce(console: Console, subject: InspectSubject) -> None:
    """What the teacher is, and by what the student's learning rate is divided."""
    teacher = subject.teacher
    table = _table("", " ")
    table.show_header = False
    table.add_row("sample_shape", " x ".join(map(str, teacher.sample_shape)))
    table.add_row("classes", _classes(teacher))
    table.add_row("parameters", f"{sum(p.numel() for p in teacher.parameters()):,}")
    for note in teacher.notes if isinstance(teacher, SiTTeacher) else ():
        table.add_row("", note)
    if isinstance(teacher, SiTTeacher):
        table.add_row("convention", convention_name(teacher.function.convention))
    for line in _steps(subject):
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
def _steps(subject: InspectSubject) -> list[str]:
    """Return the student's learning rate, and what bfloat16 would do to it."""
    if subject.has_network:
        return ["student_lr as it is: a network of its own predicts u"]
    teacher = subject.teacher
    scale = float(teacher.output_scale(torch.ones(1, device=device_of(teacher))))
    if scale == 1:
        return ["student_lr as it is: the network predicts a velocity"]
    problem = bfloat16_error(scale, subject.precision)
    return [step_size(subject.student_lr, scale), *([problem] if problem else [])]


def show_checks(console: Console, subject: InspectSubject, device: torch.device, seed: int) -> None:
    """The findings as a table; the first problem as an error."""
    table = _table("check", " ", "seen")
    findings = list(
        check_contract(
            subject.teacher,
            guided=subject.guided,
            device=device,
            seed=seed,
            starts_student=not subject.has_network,
        )
    )
    for finding in findings:
        table.add_row(
            finding.check, "[red]BROKEN" if finding.problem else "[green]ok", finding.evidence
        )
    if findings[-1].problem:
        console.print(table)
        findings[-1].raise_if_broken()
    if not subject.guided:
        table.add_row("null condition", "-", "not needed without guidance")
    convention = check_convention(subject.teacher, device=device, seed=seed)
    mark = {"right": "[green]ok", "unclear": "[yellow]unclear"}.get(
        convention.verdict, "[red]BROKEN"
    )
    table.add_row("sign and time", mark, f"{convention.verdict}; correlation and spread at t = 1:")
    for turned, reading in convention.readings.items():
        label = turned if turned == "as it is" else f"{turned} turned"
        more = "" if reading.imbalance is None else f", imbalance {reading.imbalance:.2f}"
        table.add_row(
            "", "", f"  {label:<20} {reading.correlation:+.2f}, {reading.spread:.2f}{more}"
        )
    seen = convention.size_problem or f"std(u) / std(z) = {convention.size:.2f} at t = 1"
    table.add_row(
        "spread at t = 1", "[yellow]look" if convention.size_problem else "[green]ok", seen
    )
    console.print(table)
    convention.raise_if_wrong()


def show_costs(
    console: Console, subject: InspectSubject, stand_in: Teacher, *, must_know: bool
) -> None:
    """Networks and memory; where the step cannot be made or followed, why not.

    Args:
        console: where to.
        subject: with batch size, precision and averages.
        stand_in: its teacher, or a copy without data.
        must_know: raise the ValueError where the costs are not known.
    """
    try:
        costs = estimate(
            lambda: subject.make(stand_in),
            batch_size=subject.batch_size,
            precision=subject.precision,
            averages=subject.averages,
        )
    except ValueError as error:
        if must_know:
            raise
        console.print(f"Costs: not known: {brief(str(error))}\n", markup=False)
        return
    console.print(_networks(costs))
    console.print(
        f"{_si(costs.flops)}FLOP per sample, {_si(costs.flops * costs.batch_size)}FLOP per step, "
        f"backward included\n"
    )
    console.print(_memory(costs))
    console.print(NOT_COUNTED + "\n")


def _networks(costs: Costs) -> Table:
    rows = costs.batch_size
    table = _table("network", "parameters", "evaluations / sample", f"/ step of {rows}")
    for name, parameters in costs.parameters.items():
        evaluations = costs.evaluations.get(name, 0.0)
        table.add_row(name, f"{parameters:,}", f"{evaluations:g}", f"{evaluations * rows:,.0f}")
    total = sum(costs.evaluations.values())
    table.add_row(
        "together",
        f"{sum(costs.parameters.values()):,}",
        f"{total:g}",
        f"{total * rows:,.0f}",
        style="bold",
    )
    return table


def _memory(costs: Costs) -> Table:
    table = _table(f"memory per process, batch {costs.batch_size}, precision {costs.precision}", "")
    trained = " + ".join(name for name in costs.weights if name not in ("teacher", "average"))
    for name, size in costs.weights.items():
        table.add_row(
            {"average": "moving averages (EMA)"}.get(name, f"weights of the {name}"), _size(size)
        )
    table.add_row(f"optimizer (Adam: {trained})", _size(costs.optimizer))
    table.add_row(f"gradients ({trained})", _size(costs.gradients))
    table.add_row(
        "activations kept for the backward pass", _size(costs.activations), end_section=True
    )
    for phase, size in costs.peaks.items():
        table.add_row(
            f"most at once in the {phase}" + (" pass" if phase != "update" else ""),
            _size(size),
            style="bold" if size == costs.peak else "",
        )
    return table


def _table(*columns: str) -> Table:
    """Return a table whose first column and whose columns of words are left-aligned."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and column not in (" ", "seen") else "left")
    return table


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _si(count: float) -> str:
    """Return a count with a decimal prefix.

    >>> _si(1.9e12)
    '1.9 T'
    """
    for power, prefix in ((15, "P"), (12, "T"), (9, "G")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {prefix}"
    return f"{count / 1e6:.3g} M"


def draw_picture(
    console: Console,
    sampler: TeacherSampler,
    path: Path,
    count: int,
    seed: int,
    device: torch.device,
) -> None:
    """A row of samples, of the classes in turn."""
    if count < 1 or sampler.steps < 1:
        raise ValueError(
            f"expected at least one sample and one step, got {count} and {sampler.steps}"
        )
    teacher, index = sampler.teacher, torch.arange(count)
    with torch.no_grad():
        z, condition = teacher.draw_indexed(index, seed=seed, stream="inspect", device=device)
        classes = index * teacher.num_classes // count if teacher.num_classes else None
        if classes is not None:
            condition = teacher.conditions.of_classes(classes.to(device))
        x = sampler(z, condition)
        try:
            drawn = pictures(teacher, x).cpu()
        except FileNotFoundError as error:  # a VAE that is not here
            console.print(f"No picture: {error}", markup=False)
            return
    guided = f", guidance {sampler.guidance:g}" if sampler.guidance != 1 else ""
    name = f"{sampler.name}{guided}"
    if drawn.ndim == 4 and drawn.shape[1] in (1, 3):
        names = class_names(drawn.shape[1:], teacher.num_classes)
        captions = caption_classes(None if classes is None else classes.tolist(), names)
        figure = picture_rows({name: drawn}, captions=captions)
        write_bytes(path, plots.png(figure, 200, "freeflow inspect"))
    elif drawn.shape[1:] == (2,):
        write_bytes(path, plots.png(plots.points({name: drawn}), maker="freeflow inspect"))
    else:
        hint = "; if they are latents, give their VAE: --teacher SiTTeacher --teacher.vae stabilityai/sd-vae-ft-ema ..."
        console.print(
            f"No picture: samples of shape {list(drawn.shape[1:])}, all finite{hint}", markup=False
        )
        return
    console.print(f"{count} samples ({name}) in {path}", markup=False)
