"""The sentences of a diagnosis, for numbers that are known."""

import torch

from freeflow_lightning.commands.views.diagnosis_findings import find_findings
from freeflow_lightning.evaluation.auxiliary_lag import AuxiliaryLag
from freeflow_lightning.evaluation.diagnosis import Diagnosis, DiagnosisSize
from freeflow_lightning.evaluation.neighbours import Neighbours
from freeflow_lightning.evaluation.trajectory_errors import TrajectoryErrors

SOLVERS = {"euler": {1: 0.8, 4: 0.3, 8: 0.1}, "heun": {1: 0.5, 4: 0.04, 8: 0.01}}


def diagnose(half=0.1, end=0.2, worst=0.2, diversity=1.0, missed=1.0, lag=None):
    errors = torch.tensor([[half], [end]])
    index, none = torch.zeros(3, dtype=torch.long), torch.zeros(0)
    to_teacher, to_student = (index, torch.ones(3)), (index, torch.full((3,), missed))
    found = Diagnosis(
        path=TrajectoryErrors(torch.tensor([0.5, 1.0]), none, none, errors),
        labels=None,
        by_class={7: worst, 1: 0.1},
        solvers=SOLVERS,
        gaps={},
        neighbours=Neighbours(none, none, to_teacher, to_student, diversity),
        lag=lag,
    )
    findings = find_findings(found, DiagnosisSize(auxiliary_steps=5), tolerance=0.05)
    return {finding.title: (finding.mark, finding.text) for finding in findings}


def test_a_good_student_is_called_so():
    said = diagnose()
    marks = {title: mark for title, (mark, _) in said.items()}
    assert marks.pop("auxiliary") == "plain"  # none was measured
    assert set(marks.values()) == {"good"}
    assert said["endpoint"][1] == (
        "relative error 0.200 to the teacher: better than 4 Euler steps of the teacher."
    )
    assert said["solver"][1] == (
        "heun with N = 4 tracks the teacher within 5% at the fewest evaluations; the paper's Heun "
        "with N = 8 has 0.010, no limit here."
    )


def test_each_fault_is_found_alone():
    now, later = torch.tensor([1.0, 1.0]), torch.tensor([0.8, 0.8])
    lag = AuxiliaryLag(torch.tensor([0.25, 0.75]), now, later, now)
    faults = {
        "growth": {"half": 0.04},
        "classes": {"worst": 0.5},
        "diversity": {"diversity": 0.8},
        "coverage": {"missed": 1.4},
        "auxiliary": {"lag": lag},
    }
    for title, values in faults.items():
        said = diagnose(**values)
        assert [name for name, (mark, _) in said.items() if mark == "look"] == [title]
    assert (
        "5 more steps with the student held still gain 20.0% of its loss: it lags" in said[title][1]
    )


def test_diversity_without_two_samples_of_a_class_is_not_measured():
    mark, text = diagnose(diversity=float("nan"))["diversity"]
    assert mark == "plain"
    assert text.startswith("not measured: no class has two samples")
