"""A sample is a function of (seed, index), bit for bit on a CPU; pictures are finite."""

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.sampling.draw import (
    Draw,
    balanced_classes,
    evaluate_rows,
    labels_of,
    pictures,
)
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import SiTTeacher, VelocityTeacher
from tiny import learned_teacher, mixture, module


@pytest.fixture(scope="module")
def digits():
    return SiTTeacher("embedded:digits")


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_batch_has_no_influence_bit_for_bit(digits, guidance):
    """Without the filled-up rows 1, 3 and 7 differ: sums of few rows are made in another order."""
    sampler, which = TeacherSampler(digits, "euler", 2, guidance), Draw(0)

    def drawn(batch_size):
        parts = []
        for index in torch.arange(22).split(batch_size):
            z, condition = which.noise(digits, index)
            parts.append(evaluate_rows(sampler, z, condition))
        return torch.cat(parts)

    whole = drawn(22)
    assert all(torch.equal(drawn(batch_size), whole) for batch_size in (1, 3, 7, 16))


def test_flow_map_sample_is_bitwise_too():
    m = module()
    flow_map = FlowMap(m.student, m.teacher)
    whole = flow_map.sample(10, seed=3)
    for batch_size in (1, 3, 64):
        assert torch.equal(flow_map.sample(10, seed=3, batch_size=batch_size), whole)
    assert torch.equal(flow_map.sample(4, seed=3, first=6), whole[6:])


def test_classes_are_given_in_turn_by_index():
    teacher = mixture()
    which = Draw(0, (1, 0, 0))
    assert which.noise(teacher, torch.tensor([0, 4, 3, 5]))[1].tolist() == [1, 0, 1, 0]
    z, drawn = Draw(0).noise(teacher, torch.arange(40))
    assert set(drawn.tolist()) == {0, 1}
    assert torch.equal(which.noise(teacher, torch.arange(40))[0], z)  # the noise stays
    assert balanced_classes(teacher) == (0, 1)
    with pytest.raises(ValueError, match=r"expected classes in 0 .. 1, got \[0, 2\]"):
        Draw(0, (0, 2)).noise(teacher, torch.tensor([0]))
    still = VelocityTeacher(lambda x, t, c: x, (2,))
    with pytest.raises(ValueError, match="has no classes"):
        Draw(0, (0,)).noise(still, torch.tensor([0]))
    with pytest.raises(ValueError, match="has no classes"):
        balanced_classes(still)


def test_another_version_of_the_noise_is_refused():
    with pytest.raises(ValueError, match="expected noise v1 or v2, got 'v3'"):
        FlowMap(module().student, mixture()).sample(2, noise="v3")


def test_labels_are_those_of_classes():
    assert labels_of(mixture(), torch.tensor([1, 0])).tolist() == [1, 0]
    assert labels_of(learned_teacher(), {"text": torch.ones(2, 3)}) is None
    assert labels_of(VelocityTeacher(lambda x, t, c: x, (2,)), torch.tensor([1])) is None


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 4, 4)])
def test_samples_that_are_not_finite_are_no_pictures(shape):
    x = torch.zeros(shape)
    teacher = VelocityTeacher(lambda x, t, c: x, shape[1:])
    assert pictures(teacher, x).dtype == (torch.uint8 if len(shape) == 4 else torch.float32)
    x[0] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        pictures(teacher, x)


def test_latents_are_decoded_in_chunks():
    seen = []

    class Decoding(VelocityTeacher):
        def decode(self, x):
            seen.append(len(x))
            return x.repeat(1, 3, 2, 2)

    teacher, x = Decoding(lambda x, t, c: x, (1, 4, 4)), torch.randn(7, 1, 4, 4)
    whole = pictures(teacher, x)
    assert torch.equal(pictures(teacher, x, batch_size=3), whole)
    assert whole.shape == (7, 3, 8, 8)
    assert seen == [7, 3, 3, 1]
