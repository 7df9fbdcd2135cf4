"""Curves and points: what stands where, and what a picture says of itself."""

import pytest
import torch
from matplotlib.colors import to_hex

from freeflow_lightning.sampling import plots, training_plot
from freeflow_lightning.sampling.colors import STUDENT, TEACHER, colors_of


def test_a_long_curve_is_smoothed_before_its_own_figures_and_nothing_empty_is_shown():
    noise = [{"step": k, "a/residual": 1.0 + (-1) ** k} for k in range(100)]
    figure = training_plot.training(noise)
    (axis,) = [axis for axis in figure.axes if axis.axison]
    smooth, raw = axis.lines
    assert axis.get_title() == "residuals"
    assert set(raw.get_ydata()) == {0.0, 2.0}
    assert abs(smooth.get_ydata()[5:-5] - 1).max() <= 0.2
    assert smooth.get_color() == raw.get_color()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a/residual"]


def curve(*students):
    rows = [{"step": k, "fid/student": x, "fid/floor": 5.0} for k, x in enumerate(students)]
    figure = training_plot.training(rows)
    axis = next(axis for axis in figure.axes if axis.get_title() == training_plot.FID_PANEL)
    return " ".join(text.get_text() for text in axis.texts), axis


def test_a_student_below_the_floor_is_explained_on_the_picture():
    text, axis = curve(9.0, 4.0)
    assert "the teacher against itself" in text
    assert "below it is sampling noise" in text
    (shaded,) = axis.patches
    assert shaded.get_y() + shaded.get_height() == 5.0


def test_a_student_above_the_floor_needs_no_excuse():
    text, _ = curve(9.0, 6.0)
    assert "the teacher against itself" in text
    assert "sampling noise" not in text


def test_a_curve_that_begins_far_above_the_floor_is_seen_on_a_logarithmic_axis():
    assert curve(90.0, 6.0)[1].get_yscale() == "linear"
    axis = curve(110.0, 6.0, 5.5)[1]
    assert axis.get_yscale() == "log"
    assert axis.get_ylim()[0] == 2.5


def test_no_floor_no_remark():
    assert (
        training_plot.explain_floor(plots.canvas(figsize=(1, 1))[1][0, 0], [{"step": 0.0}]) is None
    )


def test_a_side_has_its_colour_in_every_picture():
    line = torch.arange(3.0), torch.ones(3)
    pair = {"student": line, "teacher, 4 Euler steps": line}
    turned = dict(reversed(pair.items()))
    for lines in (pair, turned, {"auxiliary": line, **pair}):
        axis = plots.curves(lines, xlabel="", ylabel="", levels={"this student": 1.0}).axes[0]
        found = {artist.get_label(): artist.get_color() for artist in axis.lines}
        assert found["student"] == STUDENT
        assert found["teacher, 4 Euler steps"] == TEACHER
        assert axis.lines[-1].get_color() == STUDENT
    groups = {"student, 1 step": torch.zeros(2, 2), "teacher": torch.ones(2, 2)}
    drawn = plots.points(groups).axes[0].collections
    assert [to_hex(group.get_facecolor()[0]) for group in drawn] == [STUDENT, TEACHER]
    _, axis = curve(9.0, 4.0)
    assert [artist.get_color() for artist in axis.lines] == [STUDENT, TEACHER]


def test_two_lines_of_one_picture_have_two_colours():
    names = ["student", "student, after", *(f"method {k}" for k in range(6))]
    assert len(set(colors_of(names))) == len(names)


@pytest.mark.parametrize(("length", "columns"), [(5, 3), (25, 2), (45, 1)])
def test_a_legend_is_no_wider_than_its_picture(length, columns):
    figure, axes = plots.canvas(figsize=(5, 4))
    for name in "abc":
        axes[0, 0].plot([0, 1], [0, 1], label=length * name)
    plots.legend_below(figure, axes[0, 0], columns=3, fontsize=8)
    (legend,) = figure.legends
    assert legend._ncols == columns
    assert legend.get_window_extent().width <= figure.bbox.width
