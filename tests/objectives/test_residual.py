import torch

from freeflow_lightning.objectives import Residual, residual


def test_surrogate_norm_and_mean_square_by_hand():
    r = Residual(
        torch.tensor([[[1.0, 2.0]], [[0.5, 0.0]]]), torch.tensor([[[3.0, 4.0]], [[-2.0, 0.0]]])
    )
    assert r.surrogate().tolist() == [11.0, -1.0]
    assert r.norm().tolist() == [5.0, 2.0]
    assert r.mean_square().tolist() == [12.5, 2.0]


def test_gradient_of_the_surrogate_with_respect_to_the_output_is_the_error():
    output, error = torch.randn(2, 4, 3)
    output.requires_grad_()
    residual(output, error).surrogate().sum().backward()
    assert torch.equal(output.grad, error)


def test_the_error_is_under_stop_gradient():
    output = torch.randn(4, 3, requires_grad=True)
    r = residual(output, output**2)
    assert not r.error.requires_grad
    assert not r.norm().requires_grad
    assert r.output is output


def test_the_error_is_float32_or_wider():
    x = torch.ones(1, 1)
    dtypes = {
        t: residual(x, x.to(t)).error.dtype
        for t in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    }
    assert list(dtypes.values()) == [torch.float32, torch.float32, torch.float32, torch.float64]


def test_a_bfloat16_output_meets_its_error_in_float32():
    r = residual(
        torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True), torch.full((1, 2), 1.0001)
    )
    assert r.surrogate().dtype == torch.float32
    assert torch.equal(r.surrogate(), torch.full((1,), 1.0001) * 2)
