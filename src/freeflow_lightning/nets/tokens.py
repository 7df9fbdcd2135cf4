"""Tokens between the blocks of a network: of the state alone, or of the state and of a text."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

_STATE, _TEXT = "hidden_states", "encoder_hidden_states"
"""What diffusers calls them, in this order where they are not named."""


class Tokens(NamedTuple):
    """What one block hands to the next.

    Args:
        state: of the state, [B, N, C].
        text: of the text, [B, M, C], where the blocks return both.
    """

    state: Tensor
    text: Tensor | None = None


def returned_tokens(
    output: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> Tokens | None:
    """The tokens that a block has returned; None if it returns anything else.

    Of two tensors the state's is the one shaped as the state's tokens that came in: some networks
    return the text first.

    Raises:
        ValueError: two sequences as long as each other.
    """
    if isinstance(output, Tensor):
        return Tokens(output)
    both = isinstance(output, tuple) and all(isinstance(part, Tensor) for part in output)
    if not both or len(output) != 2:
        return None
    state = named[_STATE] if _STATE in named else inputs[0]
    fitting = [part.shape == state.shape for part in output]
    if all(fitting):
        raise ValueError(
            f"a block returns two tensors of shape {list(state.shape)}, and which of them is the "
            "state's cannot be seen: make the prompts longer or shorter than the state's "
            f"{state.shape[1]} tokens"
        )
    if not any(fitting):
        return None
    return Tokens(*(output if fitting[0] else output[::-1]))


def give_tokens(
    tokens: Tokens, gate: Tensor, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a block with other tokens: state + gate [B, C] * the state's own."""
    state = _add(tokens.state, gate, named[_STATE] if _STATE in named else inputs[0])
    given = {_STATE: state} if tokens.text is None else {_STATE: state, _TEXT: tokens.text}
    by_place = [given.pop(name) for name in (_STATE, _TEXT) if name in given and name not in named]
    return (*by_place, *inputs[len(by_place) :]), named | given


def _add(tokens: Tensor, gate: Tensor, entered: Tensor) -> Tensor:
    gate = gate.view(gate.shape[0], *[1] * (entered.ndim - 2), -1)
    return tokens + gate.to(tokens.dtype) * entered.to(tokens.dtype)
