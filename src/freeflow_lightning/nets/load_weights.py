"""Weights loaded into a network: all of them, nothing else, and none cast from another kind of number."""

from collections.abc import Mapping

import torch
from torch import Tensor, dtype, nn


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], misfit: str, *, assign: bool = False
) -> None:
    """Load weights strictly.

    Args:
        network: what they are for.
        weights: by the names of the network's state dict.
        misfit: begins the message where they do not fit: "the weights of FILE do not fit NETWORK".
        assign: whether the network takes the tensors themselves, in their precision.

    Raises:
        ValueError: weights that are missing, left over, or of another shape or kind of number.

    >>> scale = nn.Linear(1, 1, bias=False)
    >>> load_weights(scale, {"weight": torch.tensor([[2.0]])}, "these weights do not fit")
    >>> scale(torch.ones(1)).item()
    2.0
    """
    refuse_other_kinds(network, weights, misfit)
    try:
        network.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        raise ValueError(f"{misfit}: {error}") from error


def refuse_other_kinds(network: nn.Module, weights: Mapping[str, Tensor], misfit: str) -> None:
    """Refuse weights that torch would cast between whole, floating point and truth values without a
    word, as where a network was saved quantised (Raises: ValueError).
    """
    kinds = {name: kind_of(value.dtype) for name, value in network.state_dict().items()}
    others = [
        name
        for name, value in weights.items()
        if name in kinds and kind_of(value.dtype) != kinds[name]
    ]
    if not others:
        return
    name = others[0]
    came = str(weights[name].dtype).removeprefix("torch.")
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    raise ValueError(
        f"{misfit}: {name}: expected {kinds[name]}, got {came}{more}: save the network's own "
        "weights, neither quantised nor rounded"
    )


def kind_of(numbers: dtype) -> str:
    """Return the kind of a dtype's numbers, in words.

    >>> kind_of(torch.bfloat16), kind_of(torch.uint8)
    ('floating point numbers', 'integers')
    """
    if numbers.is_complex:
        return "complex numbers"
    if numbers.is_floating_point:
        return "floating point numbers"
    return "truth values" if numbers is torch.bool else "integers"
