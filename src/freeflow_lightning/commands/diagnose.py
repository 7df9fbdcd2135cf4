"""freeflow diagnose: where a student goes wrong and what its teacher allows, in one HTML page with
pictures.
"""

from functools import partial
from pathlib import Path as FilePath

import torch

from freeflow_lightning.commands.options import CheckpointOptions, DeviceOptions, TeacherOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.diagnosis import (
    cases_sections,
    gap_section,
    lag_findings,
    lag_section,
    neighbour_sections,
    sample_findings,
    solver_section,
    trajectory_findings,
    trajectory_section,
)
from freeflow_lightning.commands.views.page import page
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.auxiliary_lag import measure_lag
from freeflow_lightning.evaluation.neighbours import find_neighbours
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.trajectory_errors import (
    mean_by_class,
    measure_along_delta,
    measure_solver_errors,
)
from freeflow_lightning.evaluation.velocity_gaps import (
    measure_correction_gap,
    measure_prediction_gap,
)
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.sampling.draw import Draw, labels_of
from freeflow_lightning.students.open_student import open_auxiliary, pick_device
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.training.output_folder import claim_names, publish

NOTE, PAGE = "diagnosis.json", "diagnosis.html"
SOLVER_SAMPLES = 128


def diagnose(
    opening: CheckpointOptions,
    guidance: float | None = None,
    num_samples: int = 512,
    output: str = "diagnosis",
    features: Name | FeatureNetwork = "auto",
    weights: str | None = None,
    fine_steps: int = 256,
    tolerance: float = 0.02,
    auxiliary_steps: int = 100,
    seed: int = 0,
    batch_size: int = 256,
    *,
    beside: TeacherOptions,
    where: DeviceOptions,
) -> None:
    """See where a student goes wrong: one page, diagnosis.html, to read at a glance; the numbers in
    diagnosis.json.

    Args:
        opening: the student.
        guidance: guidance scale of student and teacher; the run's evaluation_guidance if not given.
        num_samples: samples that are compared with the teacher's.
        output: folder to write to; made if it does not exist.
        features: network that says which samples are alike: auto, inception, dinov2, digits, flat
            (the plain numbers), or a class_path.
        weights: the file of Inception's or DINOv2's weights.
        fine_steps: Heun steps of the solution that coarser ones are measured against.
        tolerance: relative error at which a solver counts as good enough.
        auxiliary_steps: further steps that a copy of the auxiliary network trains, to see how far
            behind it is; 0 for none.
        seed: seed of the noise.
        batch_size: samples per network evaluation.
        beside: what takes the place of the checkpoint's own.
        where: the device.
    """
    if num_samples < 16 or batch_size < 1 or fine_steps < 2 or auxiliary_steps < 0:
        raise ValueError(
            f"expected at least 16 samples, batches of 1 and 2 fine steps, got {num_samples}, "
            f"{batch_size} and {fine_steps} (auxiliary steps {auxiliary_steps})"
        )
    claim_names(FilePath(output), NOTE, "diagnose", [PAGE])
    student = opening.open(beside.overrides).to(pick_device(where.device))
    guidance = student.evaluation_guidance if guidance is None else guidance
    sampler = StudentSampler(student, guidance)
    judge = pick_features(features, weights, student.teacher, student.device)
    auxiliary = open_auxiliary(opening.checkpoint, student, beside.overrides)
    which = Draw(seed, stream="diagnosis")
    z, condition = which.noise(student.teacher, torch.arange(num_samples), student.device)
    few, some = slice(SOLVER_SAMPLES), slice(256)
    c_few, c_some = take(condition, few), take(condition, some)
    with progress_bar(True) as bar:
        task = bar.add_task("error along the trajectory", total=4 + auxiliary_steps)
        path = measure_along_delta(student, z, condition, guidance, batch_size=batch_size)
        bar.update(task, advance=1, description="solvers")
        solvers = measure_solver_errors(student.teacher, z[few], c_few, guidance, fine=fine_steps)
        bar.update(task, advance=1, description="velocity gaps")
        gaps = {"prediction": measure_prediction_gap(student, z[some], c_some, guidance)}
        if auxiliary is not None:
            gaps["correction"] = measure_correction_gap(
                student, auxiliary, z[some], c_some, guidance, seed
            )
        bar.update(task, advance=1, description="neighbours")
        pairs = find_neighbours(sampler, judge, num_samples, seed, batch_size)
        bar.update(task, advance=1, description="auxiliary network")
        lag = None
        if auxiliary is not None and auxiliary_steps:
            lag = measure_lag(
                student,
                auxiliary,
                which,
                guidance,
                steps=auxiliary_steps,
                batch_size=batch_size,
                samples=num_samples,
                advance=lambda n: bar.advance(task, n),
            )
    labels = labels_of(student.teacher, condition)
    by_class = mean_by_class(path.errors[-1], labels)
    findings = [
        *trajectory_findings(path, solvers, by_class, tolerance),
        *sample_findings(pairs),
        *lag_findings(lag, auxiliary_steps),
    ]
    sections = [
        trajectory_section(path, solvers),
        solver_section(solvers, tolerance, path, fine_steps),
        *cases_sections(student, path, labels, by_class),
        *neighbour_sections(pairs),
        *(gap_section(name, gap) for name, gap in gaps.items()),
        *([lag_section(lag, auxiliary_steps)] if lag is not None else []),
    ]
    folder = FilePath(output)
    seen_by = type(judge).__name__
    made_of = (
        f"{opening.checkpoint}, guidance {guidance:g}, {num_samples} samples, seed {seed}, "
        f"features {seen_by}"
    )
    html = page("Diagnosis of a one-step student", made_of, findings, sections)
    numbers = {
        "about": made_of,
        "error_along_delta": dict(
            zip(path.delta.tolist(), path.errors.mean(1).tolist(), strict=True)
        ),
        "solver_errors": solvers,
        "error_by_class": by_class,
        "gaps": {
            name: {field: values.tolist() for field, values in gap._asdict().items()}
            for name, gap in gaps.items()
        },
        "auxiliary": {name: values.tolist() for name, values in lag._asdict().items()}
        if lag is not None
        else None,
        "diversity": pairs.diversity,
        "findings": [found._asdict() for found in findings],
    }
    publish(folder, NOTE, "diagnose", numbers, {PAGE: html.encode()})
    for found in findings:
        print(f"{found.mark:>6}  {found.title}: {found.text}")
    print(f"written: {folder / 'diagnosis.html'}")


main = partial(run, diagnose)
