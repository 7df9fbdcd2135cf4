"""A student in k steps: the maps from node to node, samples by seed and index, and what was trained."""

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.flow import Pairs
from freeflow_lightning.sampling.jumps import Jumps, fresh_noise
from freeflow_lightning.students.student_sampler import StudentSampler
from tiny import module

SAMPLERS = ("chain", "renoise", "gamma")
LABELS = torch.tensor([0, 1, 0, 1])


def student(pairs: Pairs | None = Pairs.ANY_TO_ANY) -> FlowMap:
    """Of random weights, said to be trained for the pairs."""
    m = module()
    return FlowMap(m.student, m.teacher, about={"pairs": pairs})


def noise() -> torch.Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(0))


def test_a_chain_is_the_map_from_node_to_node():
    f, x = student(), noise()
    gamma, third = torch.full((4,), 1.5), torch.full((4,), 1 / 3)
    chained = f.jump(x, LABELS, 1.5, Jumps(3))
    with torch.no_grad():
        for t in (1.0, 2 / 3, 1 / 3):
            x = x + f.network(x, torch.full((4,), t), LABELS, delta=third, gamma=gamma) / 3
    torch.testing.assert_close(chained, x)


def test_renoising_maps_to_data_and_noises_anew():
    f, z = student(Pairs.ANY_TO_DATA), noise()
    gamma, one, half = torch.full((4,), 1.5), torch.ones(4), torch.full((4,), 0.5)
    with torch.no_grad():
        x = z + f.network(z, one, LABELS, delta=one, gamma=gamma)
        x = 0.5 * x + 0.5 * fresh_noise(z, 0)
        x = x + 0.5 * f.network(x, half, LABELS, delta=half, gamma=gamma)
    torch.testing.assert_close(f.jump(z, LABELS, 1.5, Jumps(2, "renoise")), x)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_is_the_map_whatever_the_sampler(sampler):
    f, z = student(None), noise()
    assert torch.equal(f.jump(z, LABELS, 1.5, Jumps(1, sampler)), f(z, LABELS))
    assert torch.equal(f.sample(7, steps=1, sampler=sampler), f.sample(7))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_in_four_steps_is_a_function_of_seed_and_index(sampler):
    f = student()
    whole = f.sample(23, seed=3, steps=4, sampler=sampler)
    for batch_size in (1, 5, 64):
        parts = f.sample(23, seed=3, steps=4, sampler=sampler, batch_size=batch_size)
        assert torch.equal(parts, whole)
    assert torch.equal(f.sample(6, seed=3, first=17, steps=4, sampler=sampler), whole[17:])
    assert not torch.isin(f.sample(23, seed=4, steps=4, sampler=sampler), whole).any()
    others = [f.sample(23, seed=3, steps=4, sampler=other) for other in SAMPLERS]
    assert sum(torch.equal(other, whole) for other in others) == 1


@pytest.mark.parametrize("pairs", [Pairs.PRIOR_TO_ANY, Pairs.ANY_TO_DATA, None])
def test_steps_that_were_not_trained_are_refused(pairs):
    """None: a student of 0.1.0."""
    f = student(pairs)
    f.sample(2)
    trained = f"trained from {pairs or 'prior to any'} alone"
    with pytest.raises(ValueError, match=trained):
        f.sample(2, steps=2)
    with pytest.raises(ValueError, match=trained):
        StudentSampler(f, 1.5, steps=3)
    with pytest.raises(ValueError, match="expected a sampler of chain, renoise, gamma"):
        f.sample(2, sampler="heun")


def test_a_sampler_of_the_student_says_its_steps():
    f, z = student(), noise()
    sampler = StudentSampler(f, 1.5, 3, "gamma", 0.25)
    assert torch.equal(sampler(z, LABELS), f.jump(z, LABELS, 1.5, Jumps(3, "gamma", 0.25)))
    assert sampler.name == "student, 3 steps, gamma 0.25"
    assert sampler.facts().items() >= {"steps": 3, "sampler": "gamma", "noise share": 0.25}.items()
    assert "steps" not in StudentSampler(f, 1.5).facts()  # as folders of 0.1.0 say it
