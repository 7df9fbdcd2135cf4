"""Charts: points, curves, bars, densities, paths; and a figure as the bytes of a picture."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from freeflow_lightning.sampling.colors import NEITHER, STUDENT, TEACHER, color_of, colors_of
from freeflow_lightning.training.atomic_write import write_file


def canvas(
    lines: int = 1,
    columns: int = 1,
    *,
    figsize: tuple[float, float],
    sharex: bool | Literal["row", "col"] = False,
    sharey: bool | Literal["row", "col"] = False,
) -> tuple[Figure, np.ndarray]:
    """A figure that belongs to no window or backend, and its axes, [lines, columns]."""
    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=sharey)


def legend_below(figure: Figure, axis: Axes, columns: int, fontsize: int) -> None:
    """The names of an axis' lines below all axes, in at most so many columns as have room."""
    handles, labels = axis.get_legend_handles_labels()
    for count in range(min(columns, len(labels)), 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=count, fontsize=fontsize
        )
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def points(groups: Mapping[str, Tensor], title: str = "") -> Figure:
    """Two-dimensional points [N, 2] per group; thin lines join the points of the same noise in the
    first two groups.
    """
    figure, axes = canvas(figsize=(5, 5))
    axis = axes[0, 0]
    states = list(groups.values())
    if len(states) > 1:
        pairs = torch.stack([states[0], states[1]], dim=1)
        axis.plot(pairs[..., 0].T, pairs[..., 1].T, color="#bbbbbb", linewidth=0.6, zorder=1)
    for (name, group), color in zip(groups.items(), colors_of(list(groups)), strict=True):
        axis.scatter(group[:, 0], group[:, 1], s=8, label=name, color=color, zorder=2)
    axis.set_aspect("equal")
    axis.legend(loc="upper right", fontsize=8)
    axis.set_title(title, fontsize=10)
    return figure


def plane(states: Tensor) -> Tensor:
    """The first two numbers of states [N, ...] as points [N, 2]; states of one number lie on the
    line y = 0.

    >>> plane(torch.ones(1, 1))
    tensor([[1., 0.]])
    """
    flat = states.flatten(1)[:, :2]
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))


def curves(
    lines: Mapping[str, tuple[Any, Any]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: bool = False,
    log_x: bool = False,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Lines (x, y) by name, with dashed horizontal levels by name."""
    figure, axes = canvas(figsize=(5.2, 3.4))
    axis = axes[0, 0]
    for (name, (x, y)), color in zip(lines.items(), colors_of(list(lines)), strict=True):
        marker = "o" if len(x) < 30 else None
        axis.plot(x, y, label=name, color=color, linewidth=1.6, marker=marker, markersize=3)
    for name, level in (levels or {}).items():
        axis.axhline(level, linestyle="--", linewidth=1, color=color_of(name, NEITHER))
        axis.annotate(
            name,
            (1.02, level),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            fontsize=8,
            color="#555555",
        )
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=10)
    if log:
        axis.set_yscale("log")
    if log_x:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    if len(lines) > 1:
        axis.legend(fontsize=8)
    axis.grid(alpha=0.25)
    return figure


def bars(
    heights: Mapping[str, float], *, ylabel: str, title: str = "", level: float | None = None
) -> Figure:
    """Bars by name, with a dashed level across."""
    figure, axes = canvas(figsize=(max(4.0, 1.2 + 0.32 * len(heights)), 3.0))
    axis = axes[0, 0]
    axis.bar(list(heights), list(heights.values()), color=STUDENT)
    if level is not None:
        axis.axhline(level, linestyle="--", linewidth=1, color="#555555")
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25, axis="y")
    return figure


def densities(groups: Mapping[str, Tensor]) -> Figure:
    """Histograms of two-dimensional points [N, 2], side by side on the same axes."""
    reach = 1.1 * max(float(group.abs().max()) for group in groups.values())
    figure, axes = canvas(1, len(groups), figsize=(4 * len(groups), 4.2))
    for axis, (name, group) in zip(axes[0], groups.items(), strict=True):
        axis.hist2d(*group.T.numpy(), bins=80, range=[[-reach, reach]] * 2, cmap="magma")
        axis.set_aspect("equal")
        axis.set_title(name, fontsize=10)
    return figure


def trajectories(teacher: Tensor, student: Tensor, count: int = 60) -> Figure:
    """Paths of two-dimensional states [K, N, 2] along delta: the teacher's ODE and the student's
    f(z, delta).
    """
    figure, axes = canvas(1, 2, figsize=(8, 4.2), sharex=True, sharey=True)
    for axis, name, states, color in zip(
        axes[0],
        ("teacher's ODE", "student's f(z, delta)"),
        (teacher, student),
        (TEACHER, STUDENT),
        strict=True,
    ):
        axis.plot(states[:, :count, 0], states[:, :count, 1], color=color, linewidth=0.7, alpha=0.7)
        axis.scatter(states[-1, :count, 0], states[-1, :count, 1], s=8, color=color)
        axis.set_aspect("equal")
        axis.set_title(name, fontsize=10)
    return figure


def png(figure: Figure, dpi: int = 110, maker: str = "freeflow") -> bytes:
    """A figure as the bytes of a PNG that names the command that made it."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi, facecolor="white", metadata={"Software": maker})
    return written.getvalue()


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a PNG, whole or not at all, making its folder."""
    with write_file(path) as temporary:
        temporary.write_bytes(png(figure, dpi))


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 [H, W, 3]."""
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    return np.asarray(drawn.buffer_rgba())[..., :3].copy()
