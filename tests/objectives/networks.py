"""A small network F(z, delta) and the gradient sum_b J_b^T error_b with its Jacobian written out."""

import torch
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self, d: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Linear(d + 1, 8).double(), nn.Linear(8, d).double()

    def forward(self, z: Tensor, delta: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(torch.cat([z, delta[:, None]], 1))))


def jacobian_gradient(net: nn.Module, z: Tensor, delta: Tensor, error: Tensor) -> dict[str, Tensor]:
    """sum over the batch and the elements of error_bi dF_i(z_b, delta_b) / d(theta)."""
    parameters = dict(net.named_parameters())
    J = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (z, delta)))(parameters)
    return {name: torch.einsum("bi,bi...->...", error, j) for name, j in J.items()}


def autograd_gradient(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
