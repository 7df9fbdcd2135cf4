"""The curves of a run: smoothed, with every logged figure behind, and what the floor of FID
means.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freeflow_lightning.sampling.colors import NEITHER, colors_of
from freeflow_lightning.sampling.plots import canvas

FID_PANEL = "FID to the teacher's samples"
PANELS = {
    "error to the teacher's ODE": ("error/endpoint", "error/at_delta_0.500"),
    FID_PANEL: ("fid/student", "fid/floor"),
}
"""Beside the recipe's own."""
WIDE = 20
"""Multiple of the floor beyond which the axis of FID is logarithmic."""
LEAST = 40
"""Points from which on a curve is smoothed; a window is a twentieth of them."""


def training(
    logged: Sequence[Mapping[str, float]], curves: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Return the training curves of a metrics.csv, with errors and FID; a panel of which nothing is
    logged is left out.

    Args:
        logged: rows of the metrics.csv.
        curves: the recipe's own figures by the title of their panel; residuals and gradients if not
            given.
    """
    names = dict.fromkeys(name for row in logged for name in row)
    if not curves:
        curves = {
            "residuals": [name for name in names if name.endswith("/residual")],
            "gradient norms": [name for name in names if name.startswith("gradient/")],
        }
    panels = {
        title: [name for name in shown if name in names]
        for title, shown in {**curves, **PANELS}.items()
    }
    panels = {title: shown for title, shown in panels.items() if shown}
    columns = max(1, math.ceil(len(panels) / 2))
    figure, axes = canvas(2 if len(panels) > 1 else 1, columns, figsize=(4.4 * columns, 6.4))
    for axis in axes.flat[len(panels) :]:  # an odd number of panels leaves one place
        axis.set_axis_off()
    for axis, (title, shown) in zip(axes.flat[: len(panels)], panels.items(), strict=True):
        draw_panel(axis, title, {name: points_of(logged, name) for name in shown})
        if title == FID_PANEL:
            explain_floor(axis, logged)
    return figure


def draw_panel(axis: Axes, title: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Curves by name: steps and values, smoothed where there are many, with the values behind."""
    for (name, (step, value)), color in zip(lines.items(), colors_of(list(lines)), strict=True):
        smooth = smooth_values(value)
        axis.plot(step, smooth, label=name, linewidth=1.4, color=color)
        if smooth is not value:
            axis.plot(step, value, color=color, linewidth=0.6, alpha=0.25, zorder=1)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    axis.set_ylim(bottom=0)


def points_of(logged: Sequence[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps at which a figure is logged, counted from 1, and its values there."""
    rows = [(row["step"] + 1, row[name]) for row in logged if name in row]
    return np.array([step for step, _ in rows]), np.array([value for _, value in rows])


def smooth_values(value: np.ndarray) -> np.ndarray:
    """Return the mean over a window around each value, which is shorter at the ends; short series
    as they are.

    >>> float(smooth_values(np.arange(80.0))[40]), len(smooth_values(np.ones(80)))
    (40.0, 80)
    """
    if len(value) < LEAST:
        return value
    reach = len(value) // 40
    total = np.concatenate([[0.0], np.cumsum(value)])
    index = np.arange(len(value))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(value))
    mean: np.ndarray = (total[last] - total[first]) / (last - first)
    return mean


def explain_floor(axis: Axes, logged: Sequence[Mapping[str, float]]) -> None:
    """Shade what lies below the floor, and say on the picture what a student there means.

    Where the curve begins far above the floor its axis is logarithmic: the later steps would all
    lie on the bottom.
    """
    measured = [(row["fid/student"], row["fid/floor"]) for row in logged if "fid/floor" in row]
    if not measured:
        return
    floor = min(floor for _, floor in measured)
    axis.axhspan(0, floor, color=NEITHER, alpha=0.15, linewidth=0)
    if max(student for student, _ in measured) > WIDE * floor > 0:
        axis.set_yscale("log")
        axis.set_ylim(bottom=floor / 2)
    text = "floor: the teacher against itself at this number of samples"
    if any(student < floor for student, floor in measured):
        text += "\nbelow it is sampling noise: use more samples to tell students apart"
    axis.annotate(text, (0.02, 0.02), xycoords="axes fraction", ha="left", va="bottom", fontsize=7)
