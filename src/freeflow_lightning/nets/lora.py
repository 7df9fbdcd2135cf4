"""LoRA on one shared backbone: the frozen teacher's own network, with an adapter for each network
that is trained.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.nets.conditioning import ScalarConditioned
from freeflow_lightning.nets.device import device_of


@dataclass(frozen=True)
class LoRA:
    """Which networks are low-rank adapters on the teacher's frozen backbone, and how large they
    are.

    A layer W becomes W + (alpha / rank) B A with B zero at first, so that an adapted network starts
    as the teacher.

    Args:
        rank: rank of B A.
        alpha: numerator of the adapter's scale; the rank if not given, for a scale of 1.
        target_modules: names of the layers to adapt, in full or their last parts (["qkv", "proj"]),
            or a regular expression for full names. If not given: every nn.Linear except those of
            the time embedding and in nn.MultiheadAttention.
        dropout: on the adapter's input. Only for predictions that take no difference of two outputs
            (ExactJVP); it draws from the global generator, so that a resumed run is not bit-equal
            to an uninterrupted one.
        networks: which networks are adapters: ["student", "auxiliary"], or ["auxiliary"] beside a
            full student.
    """

    rank: int = 64
    alpha: float | None = None
    target_modules: list[str] | str | None = None
    dropout: float = 0.0
    networks: Sequence[Literal["student", "auxiliary"]] = ("student", "auxiliary")

    def __post_init__(self) -> None:
        check_counts(1, rank=self.rank)
        check_numbers(0, 1, without_high=True, dropout=self.dropout)
        if self.alpha is not None:
            check_numbers(0, without_low=True, alpha=self.alpha)
        unknown = set(self.networks) - {"student", "auxiliary"}
        if not self.networks or unknown or len(set(self.networks)) < len(self.networks):
            raise ValueError(
                f"expected lora.networks to be 'student', 'auxiliary' or both, got "
                f"{list(self.networks)}"
            )
        if self.target_modules is not None and not self.target_modules:
            raise ValueError(
                "expected lora.target_modules to name one or more layers, got none: leave it out "
                "for every linear layer"
            )


class Adapter(nn.Module):
    """A frozen backbone seen through one of its LoRA adapters.

    The backbone belongs to somebody else (the teacher): it is neither registered nor saved here.
    Between calls all its adapters are off, so that its owner sees its own network, bit for bit.
    Registered, saved and trained are the adapter's layers, under the backbone's names:
    blocks.0.attn.qkv.lora_A.weight.

    Args:
        base: the frozen backbone (x, t, condition) -> u; its layers are wrapped in place, its state
            dict keeps its keys.
        name: the adapter's name on the backbone, a new one.
        lora: rank, scale and layers.
        time_modules: paths of the time embedding, which is adapted only if `target_modules` names
            it.

    Raises:
        ValueError: no layer to adapt, or one that LoRA does not know.
    """

    base: nn.Module

    def __init__(self, base: nn.Module, name: str, lora: LoRA, time_modules: Sequence[str]) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)  # not registered
        self.name = name
        _inject(base, name, lora, time_modules)
        self._layers = dict(_adapted_layers(base))
        for path, layer in self._layers.items():
            for part in ("lora_A", "lora_B", "lora_dropout"):
                _mirror(self, f"{path}.{part}", getattr(layer, part)[name])

    def forward(self, x: Tensor, t: Tensor, condition: Any = None, **scalars: Tensor) -> Tensor:
        """u(x, t | condition) of the adapted backbone, [B, ...]; with the scalars that it takes
        itself.
        """
        with self._on():
            return self.base(x, t, condition, **scalars)

    @contextmanager
    def _on(self) -> Iterator[None]:
        # peft's set_adapter would take requires_grad from the other adapters, and autograd their
        # gradients with it
        fast = torch.backends.mha.get_fastpath_enabled()
        # nn.TransformerEncoderLayer's reads the weights past the adapters
        torch.backends.mha.set_fastpath_enabled(False)
        for layer in self._layers.values():
            layer._active_adapter, layer._disable_adapters = [self.name], False
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for layer in self._layers.values():
                layer._disable_adapters = True

    def merge_weights(self) -> nn.Module:
        """Return a backbone of its own with the adapter added into its weights: equal up to
        rounding.
        """
        # those of student and auxiliary: not copied
        hooks = [module._forward_hooks for module in self.base.modules()]
        copied = copy.deepcopy(self.base, {id(kept): type(kept)() for kept in hooks})
        for path, layer in list(_adapted_layers(copied)):
            layer.merge(adapter_names=[self.name])
            parent, _, leaf = path.rpartition(".")
            setattr(copied.get_submodule(parent), leaf, layer.get_base_layer())
        return copied


def merge(network: ScalarConditioned) -> ScalarConditioned:
    """Return an adapted student as a network that stands alone, for export; one without an adapter
    is copied.
    """
    if not isinstance(network.backbone, Adapter):
        return copy.deepcopy(network)
    copied = network.on_backbone(network.backbone.merge_weights())
    for name, own in copied.named_children():
        if name != "backbone":
            own.load_state_dict(network.get_submodule(name).state_dict())
    return copied.to(device_of(network)).train(network.training)


def _inject(base: nn.Module, name: str, lora: LoRA, time_modules: Sequence[str]) -> None:
    """Add an adapter to the layers of the backbone, in float32, and leave every other adapter as it
    is.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 (optional)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "lora needs the library peft: pip install 'freeflow-lightning[lora]'"
        ) from error
    earlier = [path for path, _ in _adapted_layers(base)]
    trained = {parameter: parameter.requires_grad for parameter in base.parameters()}
    targets = earlier or _targets(base, lora, time_modules)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,  # type: ignore[arg-type]  # peft divides it by r
        target_modules=targets,
        lora_dropout=lora.dropout,
    )
    try:
        with warnings.catch_warnings():
            # a second adapter is what we want
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            inject_adapter_in_model(settings, base, name)
    except ValueError as error:
        raise ValueError(
            f"LoRA cannot adapt {lora.target_modules or 'the linear layers'}: {error}"
        ) from error
    for path, layer in _adapted_layers(base):
        layer._disable_adapters = True
        if name not in layer.lora_A:
            raise ValueError(
                f"{path} is neither a linear layer nor a convolution: leave it out of "
                f"lora.target_modules"
            )
        _draw_in_float32(layer, name)
    for parameter in base.parameters():
        parameter.requires_grad_(trained.get(parameter, True))
    if not earlier:
        base.register_state_dict_post_hook(_own_keys)


def _draw_in_float32(layer: Any, name: str) -> None:
    """Draw the weights of a layer's adapter anew, in float32 on the layer's device."""
    device = layer.get_base_layer().weight.device
    for part in (layer.lora_A[name], layer.lora_B[name]):
        empty = torch.empty_like(part.weight, device=device, dtype=torch.float32)
        part.weight = nn.Parameter(empty)
    layer.reset_lora_parameters(name, True)


def _targets(base: nn.Module, lora: LoRA, time_modules: Sequence[str]) -> list[str] | str:
    if lora.target_modules is not None:
        return lora.target_modules
    linear_paths = [path for path, module in base.named_modules() if isinstance(module, nn.Linear)]
    # which read their weights themselves
    closed = [
        path for path, module in base.named_modules() if isinstance(module, nn.MultiheadAttention)
    ]
    chosen = [
        path
        for path in linear_paths
        if not f"{path}.".startswith(tuple(f"{outer}." for outer in [*time_modules, *closed]))
    ]
    if not chosen:
        kinds = sorted(
            {
                type(m).__name__
                for m in base.modules()
                if any(p.ndim > 1 for p in m.parameters(recurse=False))
            }
        )
        raise ValueError(
            f"{type(base).__name__} has no nn.Linear to adapt: name layers in "
            f"lora.target_modules; it has {kinds}"
        )
    return chosen


def _adapted_layers(base: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 (optional)

    return (
        (path, module) for path, module in base.named_modules() if isinstance(module, LoraLayer)
    )


def _mirror(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register a module under a dotted path, below empty modules."""
    *parents, leaf = path.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(leaf, module)


def _own_keys(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Let the state dict of an adapted backbone be the one that it had before."""
    for key in [key for key in state if key.startswith(prefix)]:
        value = state.pop(key)
        if ".lora_" not in key:
            state[key.replace(".base_layer.", ".")] = value
