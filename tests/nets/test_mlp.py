import pytest
import torch

from freeflow_lightning.flow import CentralDifference, ExactJVP
from freeflow_lightning.nets import MLP, ScalarConditioned


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4), (3, 2, 2, 2)])
def test_output_has_the_shape_of_the_state(shape):
    net = MLP(shape, hidden_size=8, depth=2)
    assert net(torch.randn(5, *shape), torch.rand(5)).shape == (5, *shape)


def test_a_state_is_only_reshaped():
    flat, image = MLP((8,), hidden_size=8, depth=1), MLP((2, 2, 2), hidden_size=8, depth=1)
    image.load_state_dict(flat.state_dict())
    x, t = torch.randn(3, 8), torch.rand(3)
    assert torch.equal(image(x.view(3, 2, 2, 2), t).flatten(1), flat(x, t))


def test_state_time_and_class_all_matter():
    torch.manual_seed(0)
    net = MLP((2,), hidden_size=16, depth=2, num_classes=3)
    x, t, y = torch.randn(4, 2), torch.rand(4), torch.tensor([0, 1, 2, 3])
    out = net(x, t, y)
    for changed in ((x + 0.1, t, y), (x, t + 0.1, y), (x, t, (y + 1) % 4)):
        assert ((net(*changed) - out).abs().amax(1) > 1e-6).all()


def test_time_scale_multiplies_the_time():
    net = MLP((2,), hidden_size=8, depth=1)
    scaled = MLP((2,), hidden_size=8, depth=1, time_scale=8.0)
    scaled.load_state_dict(net.state_dict())
    x, t = torch.randn(3, 2), torch.rand(3)
    torch.testing.assert_close(scaled(x, t / 8), net(x, t))


def test_every_parameter_learns():
    net = MLP((2,), hidden_size=8, depth=2, num_classes=3)
    net(torch.randn(64, 2), torch.rand(64), torch.arange(64) % 4).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


def test_exact_derivative_in_float64():
    net = ScalarConditioned(MLP((2,), hidden_size=8, depth=2), ("delta",)).double()
    torch.nn.init.normal_(net.embedders["delta"].mlp[2].weight)
    z, delta = (
        torch.randn(5, 2, dtype=torch.float64),
        0.1 + 0.8 * torch.rand(5, dtype=torch.float64),
    )
    F = lambda z, delta: net(z, torch.ones_like(delta), delta=delta)
    exact = ExactJVP()(F, z, delta)
    assert exact.dtype == torch.float64
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(exact, CentralDifference(1e-5)(F, z, delta), atol=1e-8, rtol=1e-7)
