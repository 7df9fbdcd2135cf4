"""freeflow report and diagnose for every kind of teacher: prompts, labels in trees, decoders, states that are no pictures."""

from pathlib import Path

import pytest
import torch
from torch import nn

from freeflow_lightning import FlowMap
from freeflow_lightning.commands import diagnose as diagnosing
from freeflow_lightning.commands import options
from freeflow_lightning.commands import report as reporting
from freeflow_lightning.commands.options import CheckpointOptions, DeviceOptions, TeacherOptions
from freeflow_lightning.commands.report import StepsOptions
from freeflow_lightning.metrics import FacesFeatures
from freeflow_lightning.sampling import plots
from freeflow_lightning.teachers import GaussianMixtureTeacher, SiTTeacher, Teacher
from tiny import mixture, module
from trees import TextTeacher

CPU = DeviceOptions(device="cpu")


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


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with a checkpoint in name only."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, folder / "checkpoints" / "last.ckpt")
    monkeypatch.setattr(reporting, "STEPS", (1, 2, 64))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_made_for_every_kind_of_teacher(kind, run, monkeypatch):
    monkeypatch.setattr(reporting, "open_student", lambda path, **others: student(kind))
    reporting.report(str(run), num_samples=12, beside=TeacherOptions(), where=CPU)
    text = (run / "report.md").read_text()
    assert "| student, 1 step | 1 | 1 |" in text
    assert (run / "comparison.png").is_file()
    assert (run / "trajectories.png").is_file() == (kind == "labelled points")


def test_a_report_shows_the_steps_that_a_student_was_trained_for(run, monkeypatch):
    for pairs, way, shown in (
        ("any to any", StepsOptions(), ("1 step", "2 steps", "4 steps", "8 steps")),
        ("any to data", StepsOptions(steps=[2]), ("2 steps, renoise",)),
    ):
        made = student("states of one number", pairs)
        monkeypatch.setattr(reporting, "open_student", lambda path, made=made, **others: made)
        settings = {"beside": TeacherOptions(), "where": CPU, "way": way}
        reporting.report(str(run), num_samples=12, **settings)
        lines = (run / "report.md").read_text().splitlines()
        rows = [line.split(" | ") for line in lines if line.startswith("| student")]
        assert [row[0] for row in rows] == [f"| student, {name}" for name in shown]
        assert [row[2] for row in rows] == [name.split()[0] for name in shown]  # evaluations
    made = student("states of one number", "prior to any")
    monkeypatch.setattr(reporting, "open_student", lambda path, **others: made)
    with pytest.raises(ValueError, match="trained from prior to any alone"):
        reporting.report(str(run), **settings)


def test_real_faces_are_a_reference_and_their_classes_captions(run, monkeypatch):
    faces = SiTTeacher("embedded:faces").eval().requires_grad_(False)
    student, captions = FlowMap(Pull(), faces, (1.0, 1.0)), []
    sheet = plots.picture_rows

    def record(rows, title, names):
        captions.extend(names)
        return sheet(rows, title, names)

    monkeypatch.setattr(plots, "picture_rows", record)
    monkeypatch.setattr(reporting, "open_student", lambda path, **others: student)
    reporting.report(str(run), "faces", num_samples=16, beside=TeacherOptions(), where=CPU)
    assert captions
    assert set(captions) <= {name.replace(", ", "\n") for name in FacesFeatures.class_names}
    text = (run / "report.md").read_text()
    assert "FID is to 2000 real faces" in text
    assert "Two halves of the real faces have FID" in text
    assert "| recognised |" in text


def test_large_pictures_are_seen_by_a_network_and_not_number_by_number(run, monkeypatch):
    large = student("a decoder that changes the shape")
    large.teacher.decode = lambda x: torch.zeros(len(x), 3, 64, 64)
    monkeypatch.setattr(reporting, "open_student", lambda path, **others: large)
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at gone\.pth"):
        reporting.report(
            str(run), num_samples=12, weights="gone.pth", beside=TeacherOptions(), where=CPU
        )


@pytest.mark.parametrize("kind", ["prompts", "states of one number"])
def test_a_diagnosis_is_made_for_every_kind_of_teacher(kind, monkeypatch):
    monkeypatch.setattr(options, "open_student", lambda path, *others, **more: student(kind))
    monkeypatch.setattr(diagnosing, "open_auxiliary", lambda *others, **more: None)
    monkeypatch.setattr("freeflow_lightning.evaluation.diagnosis.SOLVER_SAMPLES", 8)
    diagnosing.diagnose(
        CheckpointOptions(checkpoint="a.ckpt"),
        guidance=1.0,
        num_samples=16,
        features="flat",
        fine_steps=4,
        auxiliary_steps=0,
        beside=TeacherOptions(),
        where=CPU,
    )
    assert "features Flat" in Path("diagnosis/diagnosis.html").read_text()
    assert Path("diagnosis/diagnosis.html").is_file()
