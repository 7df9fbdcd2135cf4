"""Yardstick: figures of a recipe in training, at the steps and in the way that it is trained for."""

import numpy as np
import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.evaluation.scores import endpoint_errors
from freeflow_lightning.evaluation.yardstick import Measure, Yardstick, student_of
from freeflow_lightning.flow import Pairs, TeacherPath, ToData, Uniform
from freeflow_lightning.metrics import FlatFeatures
from freeflow_lightning.objectives import Consistency
from freeflow_lightning.recipes import FlowMapModule
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.students.student_sampler import StudentSampler
from tiny import mixture, mlp, module, shaken

FEW = Measure(1.0, samples=24, reference_samples=24, paired_samples=8, teacher_steps=4)


def yardstick():
    return Yardstick(mixture(), FlatFeatures(2), FEW, torch.device("cpu"))


def test_maps_to_data_are_noised_anew_between_their_steps():
    states = TeacherPath(2, "euler")
    m = FlowMapModule(mixture(), mlp(), Consistency(4), states=states, times=ToData(Uniform()))
    shaken(m.student)
    m.student.train()
    with student_of(m) as measured:
        found = yardstick().by_steps(measured)
    assert list(found) == [1, 2, 4, 8]
    assert m.student.training
    student = FlowMap(m.student, m.teacher, (1.0, 2.0), {"pairs": Pairs.ANY_TO_DATA})
    sampler = StudentSampler(student, 1.0, 4, "renoise")
    apart = endpoint_errors(sampler, yardstick().truth, Draw(), 8)
    assert found[4]["endpoint_error"] == pytest.approx(float(apart.relative.mean()))


def test_maps_from_the_prior_alone_take_one_step():
    with student_of(module(mixture())) as student:
        assert list(yardstick().by_steps(student)) == [1]


def test_statistics_are_the_reference_where_the_teacher_draws_none(tmp_path):
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    moments = {"mu": points.mean(0).numpy(), "sigma": points.T.cov().numpy()}
    np.savez(tmp_path / "given.npz", **moments)
    measure = Measure(1.0, 40, 0, 0, 4, str(tmp_path / "given.npz"))
    found = Yardstick(mixture(), FlatFeatures(2), measure, torch.device("cpu")).floor()
    assert "fid_to_statistics" not in found
    assert found["fid"] > 1  # three spots two apart against one about 0
    with pytest.raises(ValueError, match="give reference_samples or statistics"):
        Yardstick(
            mixture(), FlatFeatures(2), measure._replace(statistics=None), torch.device("cpu")
        )


def test_the_teacher_is_right_in_as_many_steps_as_its_reference_has():
    found = yardstick().teacher_by_steps()
    assert found[1]["endpoint_error"] > found[2]["endpoint_error"] > found[8]["endpoint_error"] > 0
    assert "endpoint_error" not in yardstick().floor()
