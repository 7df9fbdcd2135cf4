"""A pipeline's denoising network, called with this package's arguments."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.nets import Backbone
from freeflow_lightning.teachers.diffusers.family import Call, Family


class DiffusersNetwork(nn.Module):
    """A diffusers network as a function of (state, its own time, condition), in its own convention.

    Args:
        net: the transformer or UNet.
        family: how it is called.
        size: of the latent, as the family's layout wants it.
        scheduler: the settings of the pipeline's scheduler, where the family needs them.
    """

    def __init__(
        self,
        net: Any,
        family: Family,
        size: tuple[int, ...],
        scheduler: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = keep_labels(net)
        self.family = family
        self.size = size
        self.scheduler = scheduler or {}
        self.config: Mapping[str, Any] = net.config
        self.embedded = bool(self.config.get("guidance_embeds"))
        self.learned_variance = self.config.get("out_channels") == 2 * self.config["in_channels"]

    def forward(
        self, x: Tensor, time: Tensor, condition: Any = None, gamma: Tensor | None = None
    ) -> Tensor:
        """Return the raw output, [B, *sample_shape]; computed in the network's dtype, returned in
        that of x.

        Args:
            x: states, [B, *sample_shape].
            time: as the network wants it, [B].
            condition: tensors by argument name, labels [B], or None.
            gamma: guidance scale [B] for a network that embeds it; 1 if not given.
        """
        row, dtype = self.family, next(self.net.parameters()).dtype
        call = Call(
            x.to(dtype), time, self._named(condition, dtype), self.size, self.config, self.scheduler
        )
        arguments = {row.state: row.pack(call.x), row.timestep: time} | row.inputs(call)
        if self.embedded:
            name, factor = row.guidance_input
            arguments[name] = factor * (
                torch.ones_like(time) if gamma is None else gamma.to(time.dtype)
            )
        output = row.unpack(self.net(**arguments, return_dict=False)[0]).to(x.dtype)
        return output.chunk(2, dim=1)[0] if self.learned_variance else output

    def _named(self, condition: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        if condition is None:
            return {}
        if isinstance(condition, Tensor):
            return {self.family.classes or "class_labels": condition}
        return {name: v.to(dtype) if v.is_floating_point() else v for name, v in condition.items()}


class DiffusersVelocity(Backbone):
    """A diffusers flow network as u(x, t, condition) = sign * net(x, a + b t, condition).

    A network that embeds a guidance scale takes gamma itself.

    Args:
        net: the network in its own convention.
    """

    def __init__(self, net: DiffusersNetwork) -> None:
        super().__init__()
        self.net = net
        self.time_module = f"net.net.{net.family.time_module}" if net.family.time_module else None
        self.native_scalars = ("gamma",) if net.embedded else ()

    def forward(
        self, x: Tensor, t: Tensor, condition: Any = None, gamma: Tensor | None = None
    ) -> Tensor:
        """u(x, t | condition), [B, *sample_shape]."""
        a, b = self.net.family.time
        return self.net.family.sign * self.net(x, a + b * t, condition, gamma)


def keep_labels(net: Any) -> Any:
    """Return the network without the random dropping of labels that it does in training: a recipe
    draws its conditions itself.
    """
    for module in net.modules():
        if type(module).__name__ == "LabelEmbedding":
            module.dropout_prob = 0.0
    return net
