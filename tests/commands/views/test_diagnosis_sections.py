"""The pictures of a diagnosis say the classes of what they show."""

import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.commands.views import diagnosis_sections
from freeflow_lightning.evaluation.trajectory_errors import TrajectoryErrors
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.sampling.picture_rows import picture_rows
from freeflow_lightning.teachers import SiTTeacher


def test_worst_and_typical_cases_have_their_classes_above(monkeypatch):
    teacher = SiTTeacher("embedded:faces")
    student = FlowMap(ScalarConditioned(teacher.network(), ("delta", "gamma")), teacher)
    states = torch.zeros(1, 3, 3, 16, 16)
    path = TrajectoryErrors(torch.ones(1), states, states, torch.tensor([[0.2, 0.3, 0.1]]))
    seen = []
    monkeypatch.setattr(
        diagnosis_sections,
        "picture_rows",
        lambda *given: seen.append(given) or picture_rows(*given),
    )
    diagnosis_sections.cases_section(student, path, torch.tensor([0, 2, 4]))
    assert [(title, captions) for _, title, captions in seen] == [
        ("largest errors", ["hat", "short hair", "long hair"]),
        ("typical (median) errors", ["short hair", "hat"]),
    ]
