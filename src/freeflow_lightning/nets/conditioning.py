"""Extra scalar inputs (delta, gamma) for any backbone, zero at initialisation, without editing it
(App. B).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import apply, flow_map
from freeflow_lightning.nets.embeddings import ScalarEmbedder
from freeflow_lightning.nets.time_modules import Backbone, time_embeddings


class ScalarConditioned(nn.Module):
    """A backbone (x, t, condition) -> velocity with further scalar inputs, added to its time
    embedding.

    Each scalar gets the embedder of App. B; its last layer starts at zero, so that the network
    starts as the backbone, bit for bit. The backbone is not edited and keeps the keys of its state
    dict; the embedders belong to this wrapper. Scalars that a Backbone takes itself are handed to
    it as they are.

    Args:
        backbone: a velocity network with a time-embedding module.
        scalars: names of the inputs: ("delta", "gamma") for the student, ("gamma",) for the
            auxiliary network.
        time_module: path of the module whose output is the time embedding; the backbone's, or found
            by name, if not given.
        scale: factor on the scalars before their sinusoids, one or one for each by name.
        time_owner: the module with the time embedding, where it is not registered in `backbone` (a
            shared one's).
    """

    def __init__(
        self,
        backbone: nn.Module,
        scalars: tuple[str, ...],
        time_module: str | None = None,
        scale: float | Mapping[str, float] = 1.0,
        time_owner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.time_owner: nn.Module
        seen = backbone if time_owner is None else time_owner
        leaves = time_embeddings(seen, time_module)
        name, leaf = next(iter(leaves.items()))
        # weights [out, in, ...] of whatever class
        layers = [p for p in leaf.parameters() if p.ndim > 1]
        if not layers:
            raise ValueError(
                f"{name!r} has no linear layer: time_module=... is the module that embeds the "
                f"time in a vector"
            )
        width = len(layers[-1])
        self.backbone = backbone
        self.scalars = scalars
        self.time_module = time_module
        self.scale = scale
        object.__setattr__(self, "time_owner", seen)  # not registered
        self.native = seen.native_scalars if isinstance(seen, Backbone) else ()
        factors = scale if isinstance(scale, Mapping) else dict.fromkeys(scalars, scale)
        self.embedders = nn.ModuleDict(
            {
                name: ScalarEmbedder(width, scale=factors[name]).zero_output()
                for name in scalars
                if name not in self.native
            }
        )
        self._scalar_embedding: Tensor | None = None
        for leaf in leaves.values():
            leaf.register_forward_hook(self._add)

    def _add(self, leaf: nn.Module, inputs: tuple, embedding: Tensor) -> Tensor:
        if self._scalar_embedding is None:
            return embedding
        return embedding + _spread(self._scalar_embedding, embedding).to(embedding.dtype)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None, **scalars: Tensor) -> Tensor:
        """x [B, ...], t [B], the condition, and every named scalar [B] to the velocity [B, ...]."""
        if scalars.keys() != set(self.scalars):
            raise ValueError(f"expected the scalars {sorted(self.scalars)}, got {sorted(scalars)}")
        return self._evaluate(x, t, condition, scalars)

    def on_backbone(self, backbone: nn.Module) -> "ScalarConditioned":
        """Return a new network of this kind and these settings on another backbone."""
        return ScalarConditioned(backbone, self.scalars, self.time_module, self.scale)

    def _evaluate(
        self, x: Tensor, t: Tensor, condition: Any, scalars: Mapping[str, Tensor]
    ) -> Tensor:
        """Evaluate the backbone with those of the scalars that are given."""
        added = [name for name in self.embedders if name in scalars]
        parts = [self.embedders[name](scalars[name]) for name in added]
        self._scalar_embedding = sum(parts[1:], parts[0]) if parts else None
        native = {name: scalars[name] for name in self.native if name in scalars}
        try:
            return self.backbone(x, t, condition, **native)
        finally:
            self._scalar_embedding = None


class _EmbeddingError(Exception):
    """The time embedding has been computed; the rest of the network need not be."""


@torch.no_grad()
def difference_error(network: ScalarConditioned, x: Tensor, condition: Any, step: float) -> float:
    """Return the relative error of a central difference in t of the network's time embedding, at t
    = 1/2.

    An embedding of 1000 t turns many times within a step that is small for t itself. The network is
    run no further than its time embedding; one in less than float32 is not measured (0).

    Args:
        network: whose embedding is measured.
        x: any four states, [4, ...].
        condition: of four rows.
        step: half width of the difference, in (0, 0.5].
    """
    leaf = next(iter(time_embeddings(network.time_owner, network.time_module).values()))
    seen: list[Tensor] = []

    def stop(module: nn.Module, inputs: tuple, embedding: Tensor) -> None:
        seen.append(embedding.reshape(4, -1))
        raise _EmbeddingError

    fine = step / 16
    t = 0.5 + torch.tensor([-step, step, -fine, fine], device=x.device)
    half = torch.full_like(t, 0.5)
    handle = leaf.register_forward_hook(stop)
    try:
        network(x, t, condition, **dict.fromkeys(network.scalars, half))
    except _EmbeddingError:
        pass
    finally:
        handle.remove()
    if not seen or seen[0].element_size() < 4:
        return 0.0
    far, near = (seen[0][1] - seen[0][0]) / (2 * step), (seen[0][3] - seen[0][2]) / (2 * fine)
    size = float(near.norm())
    return float((far - near).norm()) / size if size else 0.0


def precision_of(network: nn.Module) -> torch.dtype:
    """Return the precision of a network's weights; float32 where they have several or none: such
    networks cast for themselves.
    """
    dtypes = {weight.dtype for weight in network.parameters() if weight.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def map_noise(
    network: nn.Module, z: Tensor, condition: Any, *, delta: Tensor, gamma: Tensor
) -> Tensor:
    """f(z, delta) = z + delta F(z, 1, condition, delta, gamma) from the prior, as `map_state`."""
    return map_state(network, z, condition, t=torch.ones_like(delta), delta=delta, gamma=gamma)


@torch.no_grad()
def map_state(
    network: nn.Module,
    x: Tensor,
    condition: Any,
    *,
    t: Tensor,
    delta: Tensor,
    gamma: Tensor,
) -> Tensor:
    """f(x, t, s) = x + delta F(x, t, condition, delta, gamma), delta = t - s, of a student in
    whatever precision.

    The network gets states, times and conditions in the precision of its weights, delta and gamma
    [B] in float32 or wider. The result is float32.
    """
    narrow = precision_of(network)
    wide = torch.promote_types(narrow, torch.float32)
    x, delta, gamma = x.to(wide), delta.to(wide), gamma.to(wide)
    if narrow != torch.float32:
        condition = apply(
            lambda part: part.to(narrow) if part.is_floating_point() else part, condition
        )
    F = network(x.to(narrow), t.to(narrow), condition, delta=delta, gamma=gamma)
    return flow_map(x, F.to(wide), delta).float()


def _spread(extra: Tensor, embedding: Tensor) -> Tensor:
    """[B, D] for an embedding [B, D], [B, L, D], or [B L, D] of L tokens each."""
    rows = embedding.shape[0]  # not len(), which would make torch.export's batch a constant
    extra = extra.repeat_interleave(rows // extra.shape[0], 0)
    return extra.view(rows, *[1] * (embedding.ndim - 2), -1)
