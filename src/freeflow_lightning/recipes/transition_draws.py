"""What a step of either stage of transition matching draws at random."""

from typing import Any, NamedTuple

from torch import Tensor

from freeflow_lightning.objectives import MapObjective
from freeflow_lightning.recipes.correction_draws import CorrectionDraw


class MatchDraw(NamedTuple):
    """Everything random in a step of the first stage; the first rows train the inner map.

    Args:
        z: noise that the sample x0 comes from, [B, ...].
        n: noise of the state x_t, [B, ...].
        e: noise of the inner state y_s, [B, ...].
        condition: as the teacher draws it.
        gamma: guidance scales, [B].
        place: the index of each row's outer time, int64 [B].
        s: inner times, [B].
        delta: inner durations s - r, [B]; 0 on the diagonal.
        maps: how many rows train the map.
        objective: with what it draws itself.
    """

    z: Tensor
    n: Tensor
    e: Tensor
    condition: Any
    gamma: Tensor
    place: Tensor
    s: Tensor
    delta: Tensor
    maps: int
    objective: MapObjective


class RolloutDraw(NamedTuple):
    """Everything random in a step of the second stage.

    Args:
        rows: prior noise and what noises the samples.
        place: the index of each row's outer time, int64 [B].
        e: inner noise of each outer step, [steps, B, ...].
    """

    rows: CorrectionDraw
    place: Tensor
    e: Tensor
