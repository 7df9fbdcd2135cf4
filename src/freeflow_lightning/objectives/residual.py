"""What every objective returns: a network output and the error it is pushed along. The only
stop-gradient of the package.
"""

from typing import NamedTuple

from torch import Tensor


class Residual(NamedTuple):
    """An output that carries the gradient and the error Delta that multiplies it.

    Eqs. 9, 11 and 12 share one gradient, grad_theta E[ output_theta . sg(error) ].
    """

    output: Tensor
    """[B, ...], attached to the network's graph."""
    error: Tensor
    """[B, ...], float32 or wider, a constant."""

    def surrogate(self) -> Tensor:
        """output . error per sample, [B]: no distance, but its gradient is the objective's.

        See Eqs. 9, 11 and 12.
        """
        return (self.output.to(self.error.dtype) * self.error).flatten(1).sum(1)

    def norm(self) -> Tensor:
        """||error|| per sample, [B]."""
        return self.error.flatten(1).norm(dim=1)

    def mean_square(self) -> Tensor:
        """||error||^2 / d per sample, [B]: what to log, comparable over dimensions."""
        return self.error.square().flatten(1).mean(1)


def residual(output: Tensor, error: Tensor) -> Residual:
    """Pair an output with its error, the error under stop-gradient and at least in float32."""
    return Residual(output, error.detach().float() if error.element_size() < 4 else error.detach())
