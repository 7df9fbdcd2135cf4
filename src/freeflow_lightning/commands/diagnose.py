"""freeflow diagnose: where a student goes wrong and what its teacher allows, in one HTML page with
pictures.
"""

from functools import partial
from pathlib import Path

from freeflow_lightning.commands.options import CheckpointOptions, DeviceOptions, TeacherOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.diagnosis_findings import find_findings
from freeflow_lightning.commands.views.diagnosis_sections import draw_sections
from freeflow_lightning.commands.views.page import page
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.diagnosis import DiagnosisSize, count_reports, measure_diagnosis
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.students.open_student import open_auxiliary, pick_device
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.training.output_folder import claim_names, publish

NOTE, PAGE = "diagnosis.json", "diagnosis.html"


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
        features: network that says which samples are alike: auto, faces, digits, lite0, flat, inception, dinov2
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
    size = DiagnosisSize(num_samples, fine_steps, auxiliary_steps, batch_size)
    size.check()
    folder = Path(output)
    claim_names(folder, NOTE, "diagnose", [PAGE])
    student = opening.open(beside.overrides).to(pick_device(where.device))
    guidance = student.evaluation_guidance if guidance is None else guidance
    network = pick_features(features, weights, student.teacher, student.device)
    auxiliary = open_auxiliary(opening.checkpoint, student, beside.overrides)
    with progress_bar(True) as bar:
        task = bar.add_task("", total=count_reports(size))
        found = measure_diagnosis(
            StudentSampler(student, guidance),
            auxiliary,
            network,
            size,
            seed=seed,
            report=lambda what, steps: bar.update(task, advance=steps, description=what),
        )
    findings = find_findings(found, size, tolerance)
    sections = draw_sections(found, student, size, tolerance)
    about = (
        f"{opening.checkpoint}, guidance {guidance:g}, {num_samples} samples, seed {seed}, "
        f"features {type(network).__name__}"
    )
    html = page("Diagnosis of a one-step student", about, findings, sections)
    numbers = {"about": about, **found.as_json(), "findings": [x._asdict() for x in findings]}
    publish(folder, NOTE, "diagnose", numbers, {PAGE: html.encode()})
    for finding in findings:
        print(f"{finding.mark:>6}  {finding.title}: {finding.text}")
    print(f"written: {folder / PAGE}")


main = partial(run, diagnose)
