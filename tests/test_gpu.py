"""What only a GPU can show: pytest -m gpu."""

import pytest
import torch

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.sampling.counter_noise import counter_noise
from freeflow_lightning.sampling.draw import Draw
from nets.random_weights import tiny_sit
from tiny import fit, mixture, module, same, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_samples_start_from_the_same_noise_as_on_a_cpu(version):
    index = torch.arange(5)
    here, there = (Draw(3, version=version).noise(mixture(), index, d) for d in ("cpu", "cuda"))
    assert torch.equal(here[0], there[0].cpu())
    assert torch.equal(here[1], there[1].cpu())
    assert torch.equal(counter_noise(index, (2,), seed=3), here[0]) == (version == "v2")


def test_the_flash_derivative_is_the_math_kernels():
    pytest.importorskip("jvp_flash_attention")
    net = ScalarConditioned(tiny_sit(input_size=16, hidden_size=48, num_heads=2)).cuda()
    x = torch.randn(8, *net.backbone.sample_shape, device="cuda")
    delta, labels = torch.rand(8, device="cuda"), torch.arange(8, device="cuda") % 5

    def average(z, delta):
        return net(z, torch.ones_like(delta), labels, delta=delta, gamma=torch.ones_like(delta))

    slope = {kind: ExactJVP(attention=kind)(average, x, delta) for kind in ("math", "flash")}
    torch.testing.assert_close(slope["flash"], slope["math"], rtol=2e-2, atol=2e-2)


def test_a_run_is_repeated_bit_for_bit():
    ends = []
    for _ in range(2):
        m = module()
        fit(m, max_steps=4, accelerator="gpu", devices=1, deterministic=True)
        ends.append(weights(m))
    torch.use_deterministic_algorithms(False)
    assert same(*ends)
