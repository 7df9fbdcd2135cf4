"""What a step of a map draws at random, the rows of it that are asked for, and what is logged."""

from typing import Any, NamedTuple

from torch import Tensor

from freeflow_lightning.objectives import MapObjective
from freeflow_lightning.recipes.correction_draws import CorrectionDraw
from freeflow_lightning.training.step_metrics import mean_by_bin


class MapDraw(NamedTuple):
    """What the rows of the map and of its anchor draw.

    Args:
        z: noise, a row for each path; condition and gamma likewise.
        condition: as the teacher draws it.
        gamma: guidance scales.
        paths: the path that each state is on, int64 [B]; None where each has its own.
        n: further noise, a row for each state.
        t: start times, [B]; the first rows are the map's, the others its anchor's.
        delta: durations of the map's rows, [maps].
        objective: with what it draws itself.
        off_prior: the rows whose state is not z, None for all.
        active: the map's rows that need further evaluations of the student, None for all.
    """

    z: Tensor
    condition: Any
    gamma: Tensor
    paths: Tensor | None
    n: Tensor
    t: Tensor
    delta: Tensor
    objective: MapObjective
    off_prior: Tensor | None = None
    active: Tensor | None = None


class FlowMapDraw(NamedTuple):
    """Everything random in one step; `correction` is None where nothing is corrected."""

    map: MapDraw
    correction: CorrectionDraw | None


class MapRows(NamedTuple):
    """Rows on which the map is trained, or its anchor: states with their conditions and times."""

    x: Tensor
    condition: Any
    gamma: Tensor
    t: Tensor


def map_figures(rms: Tensor, draw: MapDraw, t_c: float) -> dict[str, Tensor | float]:
    """Return what the map's residual is logged as: its mean, and its means by t and by delta.

    Args:
        rms: of each row, [maps].
        draw: of the step.
        t_c: the time above which all maps start.
    """
    figures: dict[str, Tensor | float] = {"map/residual": rms.mean(), "map/t_c": t_c}
    figures |= mean_by_bin("map/residual_by_t", rms, draw.t[: len(draw.delta)])
    return figures | mean_by_bin("map/residual_by_delta", rms, draw.delta)
