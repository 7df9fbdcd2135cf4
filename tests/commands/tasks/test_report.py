"""A report and a diagnosis of every kind of teacher: prompts, labels in trees, decoders, states that are no pictures."""

import pytest
import torch
from torch import nn

import freeflow_lightning as ff
from freeflow_lightning import FlowMap
from freeflow_lightning.commands.tasks import report as reporting
from freeflow_lightning.metrics import FacesFeatures
from freeflow_lightning.sampling.picture_rows import picture_rows
from freeflow_lightning.teachers import GaussianMixtureTeacher, SiTTeacher, Teacher
from tiny import mixture, module
from trees import TextTeacher


class Decoded(Teacher):
    """Latents [16, 2, 2] whose pictures are [3, 8, 8]."""

    sample_shape = (16, 2, 2)

    def velocity(self, x, t, condition):
        return -x

    def decode(self, x):
        return nn.functional.interpolate(x[:, :3], scale_factor=4).clamp(-1, 1)


class Undecoded(Decoded):
    """Latents of two channels, and no decoder."""

    sample_shape = (2, 2, 2)

    def decode(self, x):
        return x


class Pull(nn.Module):
    """u = -x, as a student."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))  # tells the device

    def forward(self, x, t, condition=None, *, delta, gamma):
        return -x


KINDS = {
    "prompts": TextTeacher,
    "a decoder that changes the shape": Decoded,
    "latents without a decoder": Undecoded,
    "states of one number": lambda: GaussianMixtureTeacher([[2.0], [-2.0]], 0.5),
    "labelled points": mixture,
}


def student(kind, pairs=None):
    teacher = KINDS[kind]().eval().requires_grad_(False)
    network = module(teacher).student if kind == "labelled points" else Pull()
    return FlowMap(network, teacher, (1.0, 1.0), {"pairs": pairs})


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(reporting, "STEPS", (1, 2, 64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_made_for_every_kind_of_teacher(kind, tmp_path):
    made = ff.report(student(kind), num_samples=12)
    assert "| student, 1 step | 1 | 1 |" in str(made)
    assert ("trajectories.png" in made.pictures) == (kind == "labelled points")
    assert "training.png" not in made.pictures  # no run, no curves
    with pytest.raises(ValueError, match="give the folder to write to"):
        made.save()
    assert made.save(tmp_path / "r") == tmp_path / "r/report.md"
    assert "training.png" not in (tmp_path / "r/report.md").read_text()
    page = (tmp_path / "r/report.html").read_text()
    assert page.count("<img") == len(made.pictures)
    assert "<td>student, 1 step</td>" in page
    assert "<h2>Figures</h2>" in made._repr_html_()


def test_a_report_shows_the_steps_that_a_student_was_trained_for():
    for pairs, steps, shown in (
        ("any to any", None, ("1 step", "2 steps", "4 steps", "8 steps")),
        ("any to data", [2], ("2 steps, renoise",)),
    ):
        made = ff.report(student("states of one number", pairs), num_samples=12, steps=steps)
        lines = [line for line in made.lines if line.name.startswith("student")]
        assert [line.name for line in lines] == [f"student, {name}" for name in shown]
        assert [line.evaluations for line in lines] == [int(name.split()[0]) for name in shown]
        between = pairs == "any to any"  # nothing has trained another student's maps there
        assert ("error_along_delta.png" in made.pictures) == between
        assert ("error_along_delta.png" in made.markdown()) == between
    with pytest.raises(ValueError, match="trained from prior to any alone"):
        ff.report(student("states of one number", "prior to any"), num_samples=12, steps=[2])


def test_real_faces_are_a_reference_and_their_classes_captions(monkeypatch):
    faces = SiTTeacher("embedded:faces").eval().requires_grad_(False)
    captions = []

    def record(rows, title, names):
        captions.extend(names)
        return picture_rows(rows, title, names)

    monkeypatch.setattr("freeflow_lightning.commands.views.report.picture_rows", record)
    made = ff.report(FlowMap(Pull(), faces, (1.0, 1.0)), "faces", num_samples=16)
    assert captions
    assert set(captions) <= {name.replace(", ", "\n") for name in FacesFeatures.class_names}
    assert "FID is to 2000 real faces" in made.markdown()
    assert "Two halves of the real faces have FID" in made.markdown()
    assert "| recognised |" in made.markdown()


def test_large_pictures_are_seen_by_a_network_and_not_number_by_number():
    large = student("a decoder that changes the shape")
    large.teacher.decode = lambda x: torch.zeros(len(x), 3, 64, 64)
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at gone\.pth"):
        ff.report(large, num_samples=12, weights="gone.pth")


@pytest.mark.parametrize(
    ("kind", "pairs"), [("prompts", None), ("states of one number", "any to data")]
)
def test_a_diagnosis_is_made_for_every_kind_of_teacher(kind, pairs, monkeypatch, tmp_path):
    monkeypatch.setattr("freeflow_lightning.evaluation.diagnosis.SOLVER_SAMPLES", 8)
    made = ff.diagnose(
        student(kind, pairs),
        guidance=1.0,
        num_samples=16,
        features="flat",
        fine_steps=4,
        auxiliary_steps=0,
    )
    assert made.found.lag is None
    between = pairs is None
    assert len(made.as_json()["error_along_delta"]) == (16 if between else 1)
    assert ("prediction" in made.found.gaps) == between
    assert ("growth" in str(made)) == between
    assert ("Error along the trajectory" in made.html()) == between
    assert "a FlowMap in memory, guidance 1, 16 samples, seed 0, features Flat" in made.about
    assert made.save(tmp_path / "d").read_text().count("<img") > 4
    assert str(made).splitlines()[0].split()[0] in ("good", "look")
