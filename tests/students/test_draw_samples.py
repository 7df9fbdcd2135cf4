"""The sheet of an exported student says the classes of what it shows."""

import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.students import draw_samples as home
from freeflow_lightning.teachers import SiTTeacher


def test_each_picture_has_the_class_that_it_is_of(monkeypatch, tmp_path):
    teacher = SiTTeacher("embedded:faces")
    student = FlowMap(ScalarConditioned(teacher.network(), ("delta", "gamma")), teacher)
    seen = []
    monkeypatch.setattr(home, "save_sheet", lambda *given: seen.append(given))
    assert home.draw_samples(student, tmp_path / "samples.png", n=3) == ""
    ((drawn, path, captions),) = seen
    assert path == tmp_path / "samples.png"
    assert torch.equal(drawn, pictures(teacher, student.sample(3)))
    _, labels = teacher.draw_indexed(torch.arange(3), seed=0, stream="samples")
    assert labels.tolist() == [3, 1, 3]
    assert captions == ["hat\nglasses", "glasses", "hat\nglasses"]
