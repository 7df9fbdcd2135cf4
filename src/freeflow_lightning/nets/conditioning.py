"""Extra scalar inputs (delta, gamma) for any backbone, zero at initialisation, without editing it (App. B)."""

import re
from typing import Any

from torch import Tensor, nn

from freeflow_lightning.nets.embeddings import ScalarEmbedder

_LEAF = re.compile(
    r"(timestep_embedder|time_embedder|time_embedding|time_step_proj|t_embedder|time_token|time_in|t_embedding"
    r"|timestep_proj|to_timestep_embed)$"
)


def time_embedding(backbone: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """Find the module whose output is the time embedding, by its usual names or by the given one.

    Raises:
        ValueError: none or several were found; the message lists the candidates.
    """
    if name is not None:
        modules = dict(backbone.named_modules())
        if name not in modules:
            raise ValueError(f"time_module={name!r} is not a module of {type(backbone).__name__}; it has {_sample(modules)}")
        return name, modules[name]
    found = [(path, module) for path, module in backbone.named_modules() if _LEAF.search(path)]
    if len(found) != 1:
        seen = [path for path, _ in found] or _sample(dict(backbone.named_modules()))
        raise ValueError(
            f"expected one time-embedding module in {type(backbone).__name__}, found {len(found)}: "
            f"name it with time_module=..., for example one of {seen}"
        )
    return found[0]


def _sample(modules: dict[str, nn.Module]) -> list[str]:
    return [path for path in modules if path and path.count(".") < 2][:12]


class ScalarConditioned(nn.Module):
    """A backbone (x, t, condition) -> velocity with further scalar inputs, added to its time embedding.

    Each scalar gets the embedder of App. B; its last layer starts at zero, so that the network starts as the backbone, bit
    for bit. The backbone is not edited and keeps the keys of its state dict; the embedders belong to this wrapper.

    Args:
        backbone: a velocity network with a time-embedding module.
        scalars: names of the inputs: ("delta", "gamma") for the student, ("gamma",) for the auxiliary network.
        time_module: path of the module whose output is the time embedding; found by name if not given.
        scale: factor on the scalars before their sinusoids.
        hooked: the module with the time embedding, where it is not registered in `backbone` (a shared one's).
    """

    def __init__(
        self,
        backbone: nn.Module,
        scalars: tuple[str, ...],
        time_module: str | None = None,
        scale: float = 1.0,
        hooked: nn.Module | None = None,
    ) -> None:
        super().__init__()
        name, leaf = time_embedding(backbone if hooked is None else hooked, time_module)
        layers = [p for p in leaf.parameters() if p.ndim > 1]  # weights [out, in, ...] of whatever class
        if not layers:
            raise ValueError(f"{name!r} has no linear layer: time_module=... is the module that embeds the time in a vector")
        width = layers[-1].shape[0]
        self.backbone, self.time_module, self.scale = backbone, name, scale
        self.embedders = nn.ModuleDict({name: ScalarEmbedder(width, scale=scale).zero_output() for name in scalars})
        self._extra: Tensor | None = None
        leaf.register_forward_hook(self._add)

    def _add(self, leaf: nn.Module, inputs: tuple, embedding: Tensor) -> Tensor:
        return embedding if self._extra is None else embedding + self._extra.to(embedding.dtype)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None, **scalars: Tensor) -> Tensor:
        """x [B, ...], t [B], the condition, and every named scalar [B] to the velocity [B, ...]."""
        if scalars.keys() != set(self.embedders):
            raise ValueError(f"expected the scalars {sorted(self.embedders)}, got {sorted(scalars)}")
        parts = [embedder(scalars[name]) for name, embedder in self.embedders.items()]
        self._extra = sum(parts[1:], parts[0]) if parts else None
        try:
            return self.backbone(x, t, condition)
        finally:
            self._extra = None
