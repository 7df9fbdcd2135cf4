"""What a step of a posterior map draws at random, and the rows that it is trained on."""

from typing import Any, NamedTuple

from torch import Tensor

from freeflow_lightning.flow import take
from freeflow_lightning.objectives import MapObjective


class PosteriorDraw(NamedTuple):
    """Everything random in one step; the first rows train the map, the others its diagonal.

    Args:
        z: noise that the sample x0 comes from, [B, ...]; samples where the states need data.
        n: noise of the state x_t, [B, ...].
        e: noise of the inner state y_s, [B, ...].
        condition: as the teacher draws it.
        gamma: guidance scales, [B].
        t: times of the states, [B].
        s: inner times, [B].
        delta: inner durations s - r, [B]; 0 on the diagonal.
        maps: how many rows train the map.
        objective: with what it draws itself.
        inner: noise of a tilt's draws, of the diagonal's rows; None without a tilt.
    """

    z: Tensor
    n: Tensor
    e: Tensor
    condition: Any
    gamma: Tensor
    t: Tensor
    s: Tensor
    delta: Tensor
    maps: int
    objective: MapObjective
    inner: Tensor | None = None


class PosteriorRows(NamedTuple):
    """Rows on which the inner map or its diagonal is trained.

    Args:
        y: inner states at s, [B, ...].
        s: inner times, [B].
        delta: inner durations, [B].
        x: the states whose posteriors are drawn from, [B, ...].
        t: their times, [B].
        condition: of each row.
        gamma: guidance scales, [B].
    """

    y: Tensor
    s: Tensor
    delta: Tensor
    x: Tensor
    t: Tensor
    condition: Any
    gamma: Tensor

    def cut(self, start: int, stop: int | None = None) -> "PosteriorRows":
        """Return the rows from `start` to before `stop`."""
        return PosteriorRows(*take(tuple(self), slice(start, stop)))
