"""The weights of one network inside what a training script saved."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

AVERAGE = re.compile(r"^ema|[^a-z]ema|ema\d*$|shadow|average|avg|swa|polyak", re.IGNORECASE)
"""Names under which training scripts keep averages: ema, model_ema, state_dict_ema, ema_0.9999 ...
"""


NO_NETWORK = re.compile(r"^opt|optim|sched|scaler|grad|rng|loop|callback", re.IGNORECASE)
"""Names of what may have a network's keys and is none: the state of an optimizer, for example."""


def pick_state(
    content: Any, path: str | Path, *, anchor: str, weights_key: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict of one network inside what a training script saved, and notes on what
    was taken.

    A network that is alone is taken whatever its name. Of several, the one that is called an
    average is taken.

    Args:
        content: what the file holds.
        path: the file, for messages.
        anchor: a key of the network; a part without a key that ends with it is not the network.
        weights_key: the part to take, such as "ema" or "state_dict.ema"; chosen as above if not
            given.

    Raises:
        ValueError: no weights, no such part, or several parts that could be meant.
    """
    notes: list[str] = []
    if weights_key is not None:
        content = _named_part(content, weights_key, path, anchor)
        notes.append(f"took {weights_key!r} of the file, as asked")
    while True:
        if not isinstance(content, Mapping) or not content:
            raise ValueError(f"{path} holds no state dict but {type(content).__name__}")
        parts = _parts(content, anchor) or _dicts_of_tensors(content)
        if parts.keys() == {""} or (weights_key is not None and "" in parts):
            return parts[""], notes
        if not parts:
            return _only_tensors(content, path), notes
        name = _choose(content, parts, path)
        others = [str(key) for key in (content if name in content else parts) if key != name]
        beside = f", not {', '.join(map(repr, others))}" if others else ""
        notes.append(f"took {name!r} of the file{beside}")
        content = parts[name]


def _parts(content: Mapping[Any, Any], anchor: str) -> dict[str, dict[str, Any]]:
    """Return what could be the network: dicts by name, tensors that share a prefix by that prefix
    ("" for all tensors).
    """
    parts = {
        name: dict(value) for name, value in content.items() if _is_network(name, value, anchor)
    }
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    prefixes = {_prefix(key, anchor) for key in tensors if _ends(key, anchor)}
    if len(prefixes) == 1:
        parts[""] = tensors
    elif prefixes:
        for prefix in sorted(prefixes):
            parts[prefix.rstrip(".")] = _below(tensors, prefix, prefixes)
    return parts


def _dicts_of_tensors(content: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Return the weights of some other network, by name: whoever loads them says what does not
    fit.
    """
    return {
        name: dict(value)
        for name, value in content.items()
        if isinstance(name, str)
        and isinstance(value, Mapping)
        and not NO_NETWORK.search(name)
        and all(isinstance(inner, Tensor) for inner in value.values())
        and _has_weights(value)
    }


def _below(
    tensors: Mapping[str, Tensor], prefix: str, prefixes: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors with this prefix and with no longer one of the prefixes, without it."""
    longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and not (longer and key.startswith(longer))
    }


def _is_network(name: Any, value: Any, anchor: str) -> bool:
    """Return whether an entry is a dict with the anchor somewhere inside, and is not named as
    something else.
    """
    if not isinstance(name, str) or not isinstance(value, Mapping) or NO_NETWORK.search(name):
        return False
    if any(_ends(key, anchor) and isinstance(inner, Tensor) for key, inner in value.items()):
        return True
    return any(_is_network(key, inner, anchor) for key, inner in value.items())


def _ends(key: Any, anchor: str) -> bool:
    if not isinstance(key, str):
        return False
    plain = key.replace("_orig_mod.", "")  # torch.compile's
    return plain == anchor or plain.endswith(f".{anchor}")


def _prefix(key: str, anchor: str) -> str:
    return key.replace("_orig_mod.", "").removesuffix(anchor)


def _choose(content: Mapping[Any, Any], parts: Mapping[str, Any], path: str | Path) -> str:
    """Return the name of the only part, or of the only average among them (Raises: ValueError where
    that does not decide).
    """
    nameless = [
        name
        for name, value in content.items()
        if isinstance(name, str)
        and name not in parts
        and AVERAGE.search(name)
        and not NO_NETWORK.search(name)
        and _has_weights(value)
    ]
    averages = [name for name in parts if AVERAGE.search(name)]
    if len(parts) == 1 and not nameless:
        return next(iter(parts))
    if len(averages) == 1:
        return averages[0]
    listed = ", ".join(repr(name) for name in parts if name)
    if nameless and not averages:
        raise ValueError(
            f"{path} holds an average, {nameless[0]!r}, whose tensors do not have the network's "
            f"names: take other weights with weights_key, one of {listed}"
        )
    raise ValueError(
        f"{path} holds several networks, {listed}: say which one with weights_key "
        "(an average, if there is one, is what public samples come from)"
    )


def _has_weights(value: Any) -> bool:
    """Return whether a dict or list holds a tensor that is more than a number."""
    if isinstance(value, Mapping):
        return any(_has_weights(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(_has_weights(inner) for inner in value)
    return isinstance(value, Tensor) and value.ndim > 0


def _only_tensors(content: Mapping[Any, Any], path: str | Path) -> dict[str, Tensor]:
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{path} holds no state dict: expected tensors by name, by themselves or under a name "
            f"such as 'ema' or 'state_dict', got {sorted(map(str, content))}"
        )
    return dict(content)


def _named_part(content: Any, key: str, path: str | Path, anchor: str) -> Any:
    """Return the part of the given name, a path with dots, or the tensors with that prefix."""
    if isinstance(content, Mapping) and key in content:
        return content[key]
    names = (
        [name for name in content if isinstance(name, str)] if isinstance(content, Mapping) else []
    )
    for name in names:
        if key.startswith(f"{name}.") and isinstance(content[name], Mapping):
            return _named_part(content[name], key.removeprefix(f"{name}."), path, anchor)
    below = {
        name.removeprefix(f"{key}."): content[name] for name in names if name.startswith(f"{key}.")
    }
    if below:
        return below
    parts = [name for name in _parts(content, anchor) if name] if names else []
    raise ValueError(
        f"{path} has no {key!r}: expected weights_key to be one of {parts or names[:8]}, or leave "
        f"it out"
    )
