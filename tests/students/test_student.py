"""Every reader returns the same value, a Student, of which FlowMap is made."""

import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.students.export.read_exported import read_exported
from freeflow_lightning.students.training_checkpoint import read_training_checkpoint


def test_a_folder_holds_the_student_of_the_checkpoint(checkpoint, tmp_path):
    student = read_training_checkpoint(checkpoint)
    flow_map = FlowMap(*student)
    flow_map.save_pretrained(tmp_path / "exported")
    again = read_exported(tmp_path / "exported")
    assert again.guidance_range == student.guidance_range
    of_the_run = {"curves"}  # what a report of the run plots
    assert again.about == {k: v for k, v in student.about.items() if k not in of_the_run}
    ours, theirs = student.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    drawn = FlowMap.from_checkpoint(checkpoint).sample(3, seed=1)
    assert torch.equal(FlowMap(*again).sample(3, seed=1), drawn)
    assert torch.equal(flow_map.sample(3, seed=1), drawn)
