"""Checks of settings, one style for every constructor: each names the setting, what was expected
and what came.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def check_counts(least: float, /, **counts: Any) -> None:
    """Refuse what is not an integer of at least `least`; True and False are none.

    >>> check_counts(1, steps=0)
    Traceback (most recent call last):
    ValueError: expected steps to be an integer of at least 1, got 0
    """
    bound = "" if least == -math.inf else f" of at least {least}"
    for name, count in counts.items():
        if not _is_count(count, least):
            raise ValueError(f"expected {name} to be an integer{bound}, got {count!r}")


def check_numbers(
    low: float,
    high: float = math.inf,
    /,
    *,
    without_low: bool = False,
    without_high: bool = False,
    **numbers: Any,
) -> None:
    """Refuse what is not a finite number from `low` to `high`, both of them allowed unless
    excluded.

    >>> check_numbers(0, without_low=True, student_lr=-3e-5)
    Traceback (most recent call last):
    ValueError: expected student_lr to be a finite number above 0, got -3e-05
    """
    for name, number in numbers.items():
        if not _is_inside(number, low, high, without_low, without_high):
            where = _describe(low, high, without_low, without_high)
            raise ValueError(f"expected {name} to be a finite number{where}, got {number!r}")


def check_pairs(low: float, high: float, /, *, without_high: bool = False, **pairs: Any) -> None:
    """Refuse what is not two finite numbers from `low` to `high`, the smaller one first.

    >>> check_pairs(0, 1, guidance_interval=(0.4, 0.0))
    Traceback (most recent call last):
    ValueError: expected guidance_interval to be two finite numbers from 0 to 1, the smaller one first, got [0.4, 0.0]
    """
    where = _describe(low, high, False, without_high)
    for name, pair in pairs.items():
        numbers = _as_list(pair)
        inside = isinstance(numbers, list) and all(
            _is_inside(number, low, high, False, without_high) for number in numbers
        )
        if not inside or len(numbers) != 2 or numbers[0] > numbers[1]:
            raise ValueError(
                f"expected {name} to be two finite numbers{where}, the smaller one first, got "
                f"{numbers!r}"
            )


def check_shapes(**shapes: Any) -> None:
    """Refuse what is not the shape of one sample: one or more integers of at least 1.

    >>> check_shapes(sample_shape=(3, 0))
    Traceback (most recent call last):
    ValueError: expected sample_shape to be one or more integers of at least 1, got [3, 0]
    """
    for name, shape in shapes.items():
        sizes = _as_list(shape)
        if (
            not isinstance(sizes, list)
            or not sizes
            or not all(_is_count(size, 1) for size in sizes)
        ):
            raise ValueError(
                f"expected {name} to be one or more integers of at least 1, got {sizes!r}"
            )


def in_list(value: Any) -> list[Any]:
    """One value or several as a list; None for none.

    >>> in_list(0.5), in_list((1, 2)), in_list(None)
    ([0.5], [1, 2], [])
    """
    if value is None:
        return []
    listed = _as_list(value)
    return listed if isinstance(listed, list) else [listed]


def _as_list(values: Any) -> Any:
    """A tuple, list or other sequence as a list; anything else as it is."""
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else values


def _is_count(count: Any, least: float) -> bool:
    """Whether something is an integer of at least `least`."""
    return isinstance(count, Integral) and not isinstance(count, bool) and int(count) >= least


def _is_inside(number: Any, low: float, high: float, without_low: bool, without_high: bool) -> bool:
    """Whether something is a finite number in the interval."""
    if isinstance(number, bool) or not isinstance(number, Real):
        return False
    try:
        value = float(number)
    except OverflowError:  # an integer beyond every float
        return False
    if not math.isfinite(value):
        return False
    above = value > low if without_low else value >= low
    below = value < high if without_high else value <= high
    return above and below


def _describe(low: float, high: float, without_low: bool, without_high: bool) -> str:
    """The interval in words, to follow "a finite number".

    >>> _describe(0, 1, True, False), _describe(-math.inf, math.inf, False, False)
    (' above 0 and at most 1', '')
    """
    if math.isfinite(low) and math.isfinite(high) and not (without_low or without_high):
        return f" from {low} to {high}"
    words = []
    if math.isfinite(low):
        words.append(f"above {low}" if without_low else f"of at least {low}")
    if math.isfinite(high):
        words.append(f"below {high}" if without_high else f"at most {high}")
    return f" {' and '.join(words)}" if words else ""
