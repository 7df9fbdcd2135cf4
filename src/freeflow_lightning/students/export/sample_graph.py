"""A student in a fixed number of steps as a module that can be traced, and inputs to trace it
with.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from freeflow_lightning.flow import flow_map, take
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.students.posterior_draws import draw_end


class SampleGraph(nn.Module):
    """Noise to a sample in fixed steps and, with a decoder, to its picture.

    Args:
        network: the student.
        decoder: latents to pictures in [-1, 1]; None to end with the samples themselves.
        jumps: the steps.
    """

    def __init__(
        self, network: nn.Module, decoder: nn.Module | None = None, jumps: Jumps = ONE_STEP
    ) -> None:
        super().__init__()
        self.network = network
        self.decoder = decoder
        self.jumps = jumps

    def forward(
        self, z: Tensor, gamma: Tensor, condition: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        """z [B, ...], gamma [B], the condition, fresh noise [B, noises, ...], to [B, ...]."""

        def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            F = self.network(x, t, condition, delta=t - s, gamma=gamma)
            return flow_map(x, F, t - s)

        def draw(e: Tensor, x: Tensor, t: Tensor) -> Tensor:
            return draw_end(self.network, e, x, t, condition, gamma)

        fresh = None if noise is None else lambda k: noise[:, k]
        x = self.jumps(f, z, fresh, draw)
        return x if self.decoder is None else self.decoder(x)


class VAE(nn.Module):
    """decode(latents / scale + shift) of a diffusers VAE as a graph can hold it.

    Args:
        vae: the VAE.
        scale: one number or one per channel, [C].
        shift: likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("scale", scale.view(-1, 1, 1) if scale.ndim else scale)
        self.register_buffer("shift", shift.view(-1, 1, 1) if shift.ndim else shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.vae.decode(x / self.scale + self.shift, return_dict=False)[0]


class Example(NamedTuple):
    """Inputs to trace and to check with: noise [B, ...], gamma [B], condition (labels [B], tensors
    by name, None), and the fresh noise [B, noises, ...] of samplers that take any.
    """

    z: Tensor
    gamma: Tensor
    condition: Any
    noise: Tensor | None = None

    def first(self, n: int) -> "Example":
        """Return the first n rows."""
        noise = None if self.noise is None else self.noise[:n]
        return Example(self.z[:n], self.gamma[:n], take(self.condition, slice(0, n)), noise)

    def arguments(self) -> tuple[Any, ...]:
        """Return what the graph is called with."""
        return tuple(self) if self.noise is not None else tuple(self)[:-1]

    def inputs(self) -> dict[str, Tensor]:
        """Return the tensors by the names that they have in ONNX."""
        named = {"z": self.z, "gamma": self.gamma}
        if isinstance(self.condition, dict):
            named |= self.condition
        elif self.condition is not None:
            named["labels"] = self.condition
        if self.noise is not None:
            named["noise"] = self.noise
        return named
