"""Where a student goes wrong, and what its teacher allows: findings, figures, numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freeflow_lightning.commands.views.diagnosis_findings import find_findings
from freeflow_lightning.commands.views.diagnosis_sections import draw_sections
from freeflow_lightning.commands.views.page import Finding, Section, fragment, page
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.diagnosis import (
    Diagnosis,
    DiagnosisSize,
    count_reports,
    measure_diagnosis,
)
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.students.expect_flow_map import expect_flow_map
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import Overrides, open_auxiliary
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.training.output_folder import publish

NOTE, PAGE = "diagnosis.json", "diagnosis.html"
TITLE = "Diagnosis of a one-step student"


@dataclass(frozen=True)
class DiagnosisPage:
    """What a diagnosis found, in sentences, figures and numbers.

    Args:
        about: what was measured, in a line.
        found: the numbers.
        findings: in sentences, the first thing to read.
        sections: figures and tables, and how to read them.
    """

    about: str
    found: Diagnosis
    findings: list[Finding]
    sections: list[Section]

    def as_json(self) -> dict[str, Any]:
        """Return what diagnosis.json says."""
        findings = [finding._asdict() for finding in self.findings]
        return {"about": self.about, **self.found.as_json(), "findings": findings}

    def html(self) -> str:
        """Return the page, complete in one file."""
        return page(TITLE, self.about, self.findings, self.sections)

    def save(self, folder: str | Path = "diagnosis") -> Path:
        """Write diagnosis.html and diagnosis.json into a folder; returns the page's path.

        Raises:
            ValueError: the folder holds files of these names that freeflow has not written.
        """
        pages = {PAGE: self.html().encode()}
        publish(Path(folder), NOTE, "diagnose", self.as_json(), pages)
        return Path(folder) / PAGE

    def __str__(self) -> str:
        return "\n".join(f"{x.mark:>6}  {x.title}: {x.text}" for x in self.findings)

    def _repr_html_(self) -> str:
        return fragment(TITLE, self.about, self.findings, self.sections)


def diagnose(
    flow_map: FlowMap,
    guidance: float | None = None,
    num_samples: int = 512,
    *,
    features: Name | FeatureNetwork = "auto",
    weights: str | None = None,
    fine_steps: int = 256,
    tolerance: float = 0.02,
    auxiliary_steps: int = 100,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | Path | None = None,
    overrides: Overrides = Overrides(),  # noqa: B008 (immutable)
) -> DiagnosisPage:
    """See where a student goes wrong.

    Args:
        flow_map: the student, on the device to use, with its teacher.
        guidance: of student and teacher; the student's evaluation_guidance if not given.
        num_samples: samples that are compared with the teacher's, at least 16.
        features: network that says which samples are alike: a name, or a FeatureNetwork.
        weights: the file of Inception's or DINOv2's weights.
        fine_steps: Heun steps of the solution that coarser ones are measured against.
        tolerance: relative error at which a solver counts as good enough.
        auxiliary_steps: further steps that a copy of the auxiliary network trains; 0 for none.
        seed: seed of the noise.
        batch_size: samples per network evaluation.
        checkpoint: the training checkpoint of the student, which holds the auxiliary network;
            without it that network is not examined.
        overrides: what takes the place of the checkpoint's own.

    Raises:
        ValueError: too few samples or steps, or a student without its teacher.
    """
    expect_flow_map(flow_map)
    size = DiagnosisSize(num_samples, fine_steps, auxiliary_steps, batch_size)
    size.check()
    guidance = flow_map.evaluation_guidance if guidance is None else guidance
    network = pick_features(features, weights, flow_map.teacher, flow_map.device)
    auxiliary = None if checkpoint is None else open_auxiliary(checkpoint, flow_map, overrides)
    with progress_bar(True) as bar:
        task = bar.add_task("", total=count_reports(size))
        found = measure_diagnosis(
            StudentSampler(flow_map, guidance),
            auxiliary,
            network,
            size,
            seed=seed,
            report=lambda what, steps: bar.update(task, advance=steps, description=what),
        )
    about = (
        f"{checkpoint or 'a FlowMap in memory'}, guidance {guidance:g}, {num_samples} samples, "
        f"seed {seed}, features {type(network).__name__}"
    )
    findings = find_findings(found, size, tolerance)
    return DiagnosisPage(about, found, findings, draw_sections(found, flow_map, size, tolerance))
