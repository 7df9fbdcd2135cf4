"""What a step of a map draws at random, its rows at their states, and what is logged of them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import States, join, take
from freeflow_lightning.objectives import MapObjective
from freeflow_lightning.recipes.correction_draws import CorrectionDraw
from freeflow_lightning.recipes.distillation import Distillation
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


def place_maps(module: Distillation, states: States, m: MapDraw) -> tuple[MapRows, MapRows]:
    """Return the states x_t with their conditions: of the map's rows, and of its anchor's.

    Args:
        module: the recipe, whose student and teacher carry the noise there.
        states: where x_t comes from.
        m: the draw.
    """
    condition, gamma = take((m.condition, m.gamma), m.paths)
    F = module.student_at(m.z, condition, gamma, m.off_prior)
    u = module.teacher_at(m.z, m.condition, m.gamma)
    with torch.no_grad():
        x = states.draw(m.t, F, u, m.z, m.n).to(m.z.dtype)
    cut = len(m.delta)
    maps = MapRows(x[:cut], take(condition, slice(cut)), gamma[:cut], m.t[:cut])
    rest = slice(cut, None)
    return maps, MapRows(x[rest], take(condition, rest), gamma[rest], m.t[rest])


def ask_student(
    module: Distillation, m: MapDraw, maps: MapRows, anchors: MapRows, c: CorrectionDraw | None
) -> dict[str, Tensor]:
    """Outputs of the student with their gradient for map, anchor and correction, in one call.

    Without the map's where the objective evaluates its output itself.

    Args:
        module: the recipe.
        m: the draw.
        maps: the map's rows.
        anchors: its anchor's, which may be none.
        c: the rows that are corrected, at the states that they start at.
    """
    parts: dict[str, tuple[MapRows, Tensor]] = {}
    if not m.objective.evaluates_output:
        parts["map"] = maps, m.objective.output_delta(maps.t, m.delta)
    if len(anchors.t):
        parts["anchor"] = anchors, torch.zeros_like(anchors.t)
    if c is not None:
        parts["correction"] = MapRows(c.z, c.condition, c.gamma, c.start), c.start
    if not parts:
        return {}
    rows, deltas = zip(*parts.values(), strict=True)
    x, condition, gamma, t = (join(*each) for each in zip(*rows, strict=True))
    output = module.student(x, t, condition, delta=torch.cat(deltas), gamma=gamma)
    return dict(zip(parts, output.split([len(each) for each in deltas]), strict=True))


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
