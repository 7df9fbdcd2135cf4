"""The module of a backbone whose output is the time embedding: found by its usual names, or
told.
"""

import re
from collections.abc import Mapping

from torch import nn

from freeflow_lightning.nets.recorded import Recorded

NAMES = tuple(
    re.compile(rf"(^|\.)({names})$")
    for names in (
        # diffusers, DiT, SiT, Flux
        r"timestep_embedder|time_embedder|time_embedding|time_step_proj|t_embedder|time_token|time_in|t_embedding"
        r"|timestep_proj|to_timestep_embed",
        # ADM, lucidrains, DDPM, EDM, EDM2, k-diffusion and what is written by hand
        r"(time|t|timestep|step|diffusion|noise|sigma)_(mlp|embed|emb|embedder|embedding|encoder|encoding)"
        r"|time_net|temb|embed_(time|t)|emb_(time|noise)|map_layer\d+",
        # a projection of an embedding: where nothing else has the name of one
        r"(time|t|timestep)_(proj|projection|dense|linear|fc|layer|layers)",
    )
)
"""Usual names of the module whose output is the time embedding; a later line counts where an
earlier one finds nothing.
"""

OTHERS = re.compile(r"context_embedder|refiner|guidance_embedder|audio")
"""Names of what embeds a time for something else."""


class Backbone(Recorded, nn.Module):
    """A velocity network that knows more about itself than can be found by looking.

    Attributes:
        time_module: path of the module whose output is the time embedding; None to find it by name.
        native_scalars: scalars that `forward` takes itself, by name; they get no embedder.
    """

    time_module: str | None = None
    native_scalars: tuple[str, ...] = ()


def time_embeddings(backbone: nn.Module, name: str | None = None) -> dict[str, nn.Module]:
    """Return the modules whose output is the time embedding, by the given name or the usual ones.

    One module, or several copies of one that differ by their number alone (DiT of diffusers has one
    in each block).

    Raises:
        ValueError: none or several different ones were found; the message lists the candidates.
    """
    if name is None and isinstance(backbone, Backbone):
        name = backbone.time_module
    modules = dict(backbone.named_modules())
    if name is not None:
        if name not in modules:
            raise ValueError(
                f"time_module={name!r} is not a module of {type(backbone).__name__}; it has "
                f"{_sample(modules)}"
            )
        return {name: modules[name]}
    found = next(filter(None, (_find_named(modules, names) for names in NAMES)), [])
    if len({re.sub(r"\d+", "", path) for path in found}) != 1:
        seen = found or _sample(modules)
        raise ValueError(
            f"expected one time-embedding module in {type(backbone).__name__}, found {len(found)}: "
            f"name it with time_module=..., for example one of {seen}"
        )
    return {path: modules[path] for path in found}


def _find_named(modules: Mapping[str, nn.Module], names: re.Pattern[str]) -> list[str]:
    """Return the paths with one of the names: of those inside each other the innermost, of layers
    in a row the last.

    A block's own layer for the time, below a module of the same name at the top, is fed by that one
    and is left out. So is a module without weights: a sinusoid.
    """
    named = [path for path in modules if names.search(path) and not OTHERS.search(path)]
    weighty = [path for path in named if any(p.ndim > 1 for p in modules[path].parameters())]
    leaves = [
        path for path in weighty if not any(other.startswith(f"{path}.") for other in weighty)
    ]
    if names is not NAMES[0]:
        top = min((path.count(".") for path in leaves), default=0)
        leaves = [path for path in leaves if path.count(".") == top]
    rows = {re.sub(r"(?<=map_layer)\d+$", "", path): path for path in leaves}
    return [_find_called(path, modules) for path in rows.values()]


def _find_called(path: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the path, or where it is a mere container of layers, as DDPM's `temb` is, that of its
    last layer with weights.
    """
    if type(modules[path]).forward is not nn.Module.forward:
        return path
    layers = [
        name
        for name in modules
        if name.startswith(f"{path}.") and not list(modules[name].children())
    ]
    return [name for name in layers if any(p.ndim > 1 for p in modules[name].parameters())][-1]


def _sample(modules: dict[str, nn.Module]) -> list[str]:
    return [path for path in modules if path and path.count(".") < 2][:12]
