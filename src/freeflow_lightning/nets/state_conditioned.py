"""A second state for any backbone, zero at initialisation, without editing it: posterior flows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import expand, merge_copies
from freeflow_lightning.nets.conditioning import ScalarConditioned

_INPUT = re.compile(
    r"(^|\.)(x_embedder|patch_embed|patch_embedding|pos_embed|conv_in|init_conv|first_conv"
    r"|input_blocks\.0|img_in|x_in|proj_in|input_proj|in_proj|in_conv|inc)$"
)
"""Usual names of the module that a state enters first."""

_SCALARS = ("delta", "gamma", "t_state")


@dataclass(frozen=True)
class SecondState:
    """How a backbone takes a second state.

    Args:
        input_module: path of the first layer that a state passes (a convolution or linear layer, or
            a module that holds one); found by its usual names if not given.
        preconditioned: feed x* and t* of `merge_copies` to the backbone, y as the second state, and
            return the posterior's velocity from its output: exact on the diagonal from the start.
    """

    input_module: str | None = None
    preconditioned: bool = False


_SECOND = SecondState()


class StateConditioned(ScalarConditioned):
    """A backbone (y, s, condition) -> velocity that also sees a noised state x_t and its time.

    The student of a Meta Flow Map (arXiv 2601.14430): V(y, s, s - delta; x_t, t). The second state
    passes a layer like the backbone's first one, whose weights start at zero, and is added to that
    one's output; t_state = t is a scalar as delta and gamma are. So the network starts as the
    backbone, bit for bit. What enters is (1 - t) x_t: x_1 is noise that tells nothing, and there
    the student is an ordinary flow map of (y, s). Without a state it is that.

    Args:
        backbone: a velocity network with a time-embedding module.
        time_module: path of the module whose output is the time embedding; found if not given.
        scale: factor on the scalars before their sinusoids.
        time_owner: the module with the embeddings, where it is not registered in `backbone`.
        second: how the state enters.

    Raises:
        ValueError: no such layer, or several.
    """

    def __init__(
        self,
        backbone: nn.Module,
        time_module: str | None = None,
        scale: float | Mapping[str, float] = 1.0,
        time_owner: nn.Module | None = None,
        second: SecondState = _SECOND,
    ) -> None:
        embedded = (*_SCALARS, "s") if second.preconditioned else _SCALARS
        super().__init__(backbone, embedded, time_module, scale, time_owner)
        self.scalars = _SCALARS  # s is given as a time
        self.second = second
        layer = find_input_layer(self.time_owner, second.input_module)
        self.state_embedder = _copy_at_zero(layer)
        self._second_state: Tensor | None = None
        layer.register_forward_hook(self._add_state)

    def _add_state(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._second_state is None:
            return output
        return output + self.state_embedder(_in_the_form_of(inputs[0], self._second_state))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Any = None,
        *,
        state: Tensor | None = None,
        t_state: Tensor | None = None,
        **scalars: Tensor,
    ) -> Tensor:
        """V [B, ...] at the inner state y and time s.

        Args:
            x: y, [B, ...].
            t: s in [0, 1], [B].
            condition: as the backbone takes it.
            state: x_t, [B, ...]; none is a state at t = 1.
            t_state: its time t in [0, 1], [B].
            scalars: delta and gamma, [B] each.
        """
        if scalars.keys() != {"delta", "gamma"}:
            raise ValueError(f"expected the scalars delta and gamma, got {sorted(scalars)}")
        state = torch.zeros_like(x) if state is None else state
        t_state = torch.ones_like(scalars["delta"]) if t_state is None else t_state
        scalars["t_state"] = t_state
        if not self.second.preconditioned:
            return self._with_state(expand(1 - t_state, state) * state, x, t, condition, scalars)
        copy = merge_copies(x, t, state, t_state)
        u = self._with_state(x, copy.x, copy.t, condition, scalars | {"s": t})
        return copy.posterior_velocity(u)

    def on_backbone(self, backbone: nn.Module) -> "StateConditioned":
        return StateConditioned(backbone, self.time_module, self.scale, second=self.second)

    def _with_state(
        self, state: Tensor, x: Tensor, t: Tensor, condition: Any, scalars: dict[str, Tensor]
    ) -> Tensor:
        self._second_state = state.to(x.dtype)
        try:
            return self._evaluate(x, t.to(x.dtype), condition, scalars)
        finally:
            self._second_state = None


def find_input_layer(backbone: nn.Module, path: str | None = None) -> nn.Module:
    """The first convolution or linear layer that a state passes, by the given path or usual names.

    Raises:
        ValueError: none or several were found; the message lists the candidates.
    """
    modules = dict(backbone.named_modules())
    if path is not None and path not in modules:
        raise ValueError(
            f"input_module={path!r} is not a module of {type(backbone).__name__}; it has "
            f"{_weighty(modules)[:12]}"
        )
    usual = [name for name, module in modules.items() if _INPUT.search(name) and _layers(module)]
    named = usual if path is None else [path]
    top = min((name.count(".") for name in named), default=0)
    named = [name for name in named if name.count(".") == top]
    if len(named) != 1:
        raise ValueError(
            f"expected one input layer in {type(backbone).__name__}, found {len(named)}: name the "
            "layer that the state passes first with input_module=..., for example one of "
            f"{named or _weighty(modules)[:12]}"
        )
    layers = _layers(modules[named[0]])
    if not layers:
        raise ValueError(
            f"{named[0]!r} has no convolution or linear layer: input_module=... is the layer that "
            "the state passes first"
        )
    return layers[0]


def _layers(module: nn.Module) -> list[nn.Module]:
    """The convolutions and linear layers in a module; none in an embedding of positions alone."""
    return [layer for layer in module.modules() if _has_kernel(layer)]


def _weighty(modules: Mapping[str, nn.Module]) -> list[str]:
    return [path for path, module in modules.items() if _has_kernel(module)]


def _has_kernel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _copy_at_zero(layer: nn.Module) -> nn.Module:
    """A layer of the same kind, trainable and without effect."""
    copy = _without_hooks(layer)
    for weight in copy.parameters():
        nn.init.zeros_(weight.requires_grad_())
    return copy


def _without_hooks(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None).to(
            layer.weight
        )
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    kind: Any = type(layer)
    return kind(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    ).to(layer.weight)


def _in_the_form_of(entered: Tensor, state: Tensor) -> Tensor:
    """The state as the first one has entered the layer: itself, or flattened."""
    if state.shape == entered.shape:
        return state
    if (
        state.numel() == entered.numel()
        and entered.shape[0] == state.shape[0]
        and entered.ndim == 2
    ):
        return state.flatten(1)
    raise ValueError(
        f"the input layer takes {list(entered.shape)} for states of shape {list(state.shape)}, and "
        "how the network brings them there is not known: use a network whose first layer takes "
        "the state itself, or name another with input_module=..."
    )
