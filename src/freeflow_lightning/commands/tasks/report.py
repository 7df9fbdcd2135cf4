"""A student beside its teacher at 1, 2, 4, 8 and 64 steps, from the same noise: figures, pictures,
curves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from freeflow_lightning.commands.views import report as view
from freeflow_lightning.commands.views.page import fragment, page
from freeflow_lightning.commands.views.progress import progress_bar, starter
from freeflow_lightning.evaluation.pick_features import Name
from freeflow_lightning.evaluation.steps_table import (
    STEPS,
    Inputs,
    Judge,
    Line,
    Reference,
    StepsTable,
    compare_halves,
    features_for,
    reference_samples,
    without_foreign_classes,
)
from freeflow_lightning.evaluation.trajectory_errors import measure_along_delta
from freeflow_lightning.flow import take
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.sampling.draw import labels_of
from freeflow_lightning.sampling.jumps import SIDE_BY_SIDE
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import open_student
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.training.output_folder import publish
from freeflow_lightning.training.run_folder import newest
from freeflow_lightning.training.run_loggers import read_metrics
from freeflow_lightning.training.training_checkpoint import find_checkpoint

NOTE, PAGE, HTML = "report.json", "report.md", "report.html"


@dataclass(frozen=True)
class RunReport:
    """A student beside its teacher, in figures and pictures.

    Args:
        title: what it is of.
        lines: the figures of each sampler.
        facts: how they were made, as JSON.
        pictures: PNG files by name.
        folder: the run's; None for a student in memory.
    """

    title: str
    lines: Sequence[Line]
    facts: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    folder: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what report.json says."""
        return {**self.facts, "samplers": [line._asdict() for line in self.lines]}

    def markdown(self) -> str:
        """Return what report.md says; it shows the pictures by their names."""
        return view.report_text(self.title, self.lines, list(self.pictures), self.facts)

    def html(self) -> str:
        """Return the same as one page that holds its pictures."""
        findings, sections = view.parts(self.lines, self.pictures, self.facts)
        return page(self.title, view.facts_in_words(self.facts), findings, sections)

    def save(self, folder: str | Path | None = None) -> Path:
        """Write report.md, report.html, report.json and the pictures into a folder, the run's if not
        given; returns report.md's path.

        Raises:
            ValueError: no folder, or one that holds files of these names that freeflow has not
                written.
        """
        target = self.folder if folder is None else Path(folder)
        if target is None:
            raise ValueError("this student is of no run: give the folder to write to, save(folder)")
        pages = {PAGE: self.markdown().encode(), HTML: self.html().encode()}
        publish(target, NOTE, "report", self.as_json(), {**self.pictures, **pages})
        return target / PAGE

    def __str__(self) -> str:
        return "\n".join(view.table(self.lines))

    def _repr_markdown_(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        findings, sections = view.parts(self.lines, self.pictures, self.facts)
        return fragment(self.title, view.facts_in_words(self.facts), findings, sections)


def report(
    student: FlowMap | str | Path,
    reference: Reference = "teacher",
    num_samples: int = 1797,
    guidance: Sequence[float] | None = None,
    *,
    features: Name | FeatureNetwork | None = None,
    weights: str | None = None,
    seed: int = 3,
    steps: Sequence[int] | None = None,
    sampler: SamplerName | None = None,
    noise_share: float | None = None,
    run: str | Path | None = None,
) -> RunReport:
    """Compare a student with its teacher at several numbers of steps.

    Args:
        student: on the device to use, with its teacher; or the folder of a run, runs/NAME/version_N,
            or runs/NAME for its newest.
        reference: what FID compares with: samples of the teacher (64 Heun steps, other noise), or
            real pictures: "faces" or "digits".
        num_samples: samples per sampler; the same noise for all.
        guidance: scales to compare; the lowest of the student's range and the middle if not given.
        features: network that FID sees samples with; if not given, that of the real pictures, and
            auto with reference "teacher".
        weights: the file of Inception's or DINOv2's weights.
        seed: of the noise.
        steps: evaluations of the student per sample; if not given, 1, 2, 4 and 8 of a student that
            was trained for them, 1 of another.
        sampler: how more than one are joined: chain, renoise or gamma.
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 to 1.
        run: the folder of a student's run, whose training curves are shown; not needed where
            `student` is one.

    Raises:
        FileNotFoundError: no run there.
        ValueError: steps or guidance that the student does not have, or one without its teacher.
    """
    folder = None if run is None else newest(Path(run))
    if not isinstance(student, FlowMap):
        folder = newest(Path(student))
        student = open_student(find_checkpoint(folder))
    low, high = student.guidance_range
    scales = sorted(set(guidance or [low, (low + high) / 2]))
    sides = [samplers_at(student, gamma, steps, sampler, noise_share) for gamma in scales]
    z, condition = student.teacher.draw_indexed(
        torch.arange(num_samples), seed=seed, stream="report", device=student.device
    )
    inputs = Inputs(z, condition, labels_of(student.teacher, condition))
    seen_by = features_for(student, reference, features, weights)
    with progress_bar(True) as bar:
        begin = starter(bar, 1)
        begin("what FID compares with", None)
        judge = Judge(reference_samples(student, reference, num_samples, low, seed), seen_by)
        made = StepsTable(judge, inputs, begin)
        for samplers in sides:
            made.compare(student.teacher, STEPS, samplers)
        begin("error along delta", None)
        few = take(condition, slice(256))
        paths = measure_along_delta(student, z[:256], few, scales[0])
    facts: dict[str, Any] = {"reference": reference, "samples": num_samples, "seed": seed}
    facts["features"] = type(seen_by).__name__
    facts["floor"] = compare_halves(judge, reference)
    logged = [] if folder is None else read_metrics(folder / "metrics.csv")
    drawn = view.draw_pictures(
        student, made.shown, inputs.labels, paths, seen_by.class_names, logged
    )
    title = "A student in memory" if folder is None else f"{folder.parent.name}, {folder.name}"
    lines = without_foreign_classes(made.lines, student.teacher.num_classes)
    return RunReport(title, lines, facts, drawn, folder)


def samplers_at(
    student: FlowMap,
    guidance: float,
    steps: Sequence[int] | None,
    sampler: SamplerName | None,
    noise_share: float | None,
) -> list[StudentSampler]:
    """Return the student at a guidance, at each number of steps, ascending."""
    numbers = sorted(set(steps or student.trained.numbers(SIDE_BY_SIDE)))
    name = sampler or student.trained.sampler
    return [StudentSampler(student, guidance, k, name, noise_share) for k in numbers]
