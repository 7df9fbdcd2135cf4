"""Samples from torch's generators, as diffusers takes them."""

import numpy as np
import pytest
import torch
from torch import Generator

from freeflow_lightning import FlowMap
from tiny import module


@pytest.fixture(scope="module")
def flow_map():
    made = module()
    return FlowMap(made.student, made.teacher)


def seeded(*seeds):
    return [Generator().manual_seed(seed) for seed in seeds]


def test_the_noise_is_what_torch_draws(flow_map):
    z = torch.randn(5, 2, generator=seeded(3)[0])
    given = torch.tensor([0, 1, 0, 1, 0])
    drawn = flow_map.sample(5, given, generator=seeded(3)[0], batch_size=2)
    assert torch.allclose(drawn, flow_map(z, given), atol=1e-6)


def test_the_generator_moves_on_and_may_begin_again(flow_map):
    generator = seeded(3)[0]
    one, two = (flow_map.sample(4, generator=generator) for _ in range(2))
    assert not one.equal(two)
    assert flow_map.sample(4, generator=seeded(3)[0]).equal(one)


def test_a_list_has_one_for_each_sample(flow_map):
    one = flow_map.sample(2, [0, 1], generator=seeded(7, 8))
    other = flow_map.sample(2, [1, 0], generator=seeded(8, 7))
    assert torch.allclose(one, other.flip(0), atol=1e-6)
    with pytest.raises(ValueError, match="one for each of 3 samples, got 2"):
        flow_map.sample(3, generator=seeded(7, 8))


@pytest.mark.parametrize("given", [5, "ab", [1, 2], np.random.default_rng(0)])
def test_what_is_no_generator_is_refused(flow_map, given):
    with pytest.raises(ValueError, match="expected one generator, or one for each of 2 samples"):
        flow_map.sample(2, generator=given)


def test_a_seed_beside_a_generator_is_refused(flow_map):
    with pytest.raises(ValueError, match="leave seed=1 and first=0 out"):
        flow_map.sample(1, seed=1, generator=seeded(1)[0])
