"""The auxiliary objective: the network G learns the noising velocity of the student's samples."""

from torch import Tensor

from freeflow_lightning.flow.interpolant import conditional_velocity, interpolate
from freeflow_lightning.flow.solver import Velocity
from freeflow_lightning.objectives.residual import Residual, residual


def auxiliary(
    G: Velocity, f: Tensor, n: Tensor, r: Tensor, *, output: Tensor | None = None
) -> Residual:
    r"""The auxiliary residual (Eq. 12): G(x_r, r) and G(x_r, r) - (f - n), x_r = (1 - r) f + r n.

    $$\mathbb{E}_{z, n, r} \lVert G_\psi(x_r, r) - (f(z, 1) - n) \rVert^2$$

    Its surrogate has half the gradient of || G - (f - n) ||^2, like every residual here.

    Args:
        G: the auxiliary network's velocity G(x_r, r).
        f: the student's samples f(z, 1), [B, ...]; used as constants.
        n: N(0, I) noise, [B, ...].
        r: times in (0, 1), [B].
        output: G(x_r, r) where the caller has it already.

    >>> import torch
    >>> auxiliary(lambda x, r: 0 * x, torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.5])).error
    tensor([[-1., -1.]])
    """
    f = f.detach()
    output = G(interpolate(f, n, r), r) if output is None else output
    return residual(output, output.detach() - conditional_velocity(f, n))
