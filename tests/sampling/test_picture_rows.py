"""Rows of pictures: what stands where."""

import torch

from freeflow_lightning.sampling.picture_rows import picture_rows


def test_neighbours_of_one_caption_share_it_and_a_gap_parts_the_others():
    sheet = {"teacher": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}
    sheet["student"] = sheet["teacher"][:2]
    figure = picture_rows(sheet, "title", ["hat", "hat", "glasses"])
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["teacher", "student"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["hat", "glasses"]
    lefts = [image.get_extent()[0] for image in axis.images]
    first, second, third = lefts[:3]
    assert lefts[3:] == [first, second]  # the shorter row, column by column
    assert third - second - 1 > 3 * (second - first - 1) > 0
    assert list(axis.get_xticks()) == [(first + second + 1) / 2, third + 0.5]


def test_notes_stand_under_the_pictures_of_their_row():
    sheet = {name: torch.zeros(2, 1, 4, 4, dtype=torch.uint8) for name in ("student", "teacher")}
    figure = picture_rows(sheet, notes={"teacher": ["0.5", "0.7", "not shown"]})
    axis = figure.axes[0]
    bottoms = [image.get_extent()[2] for image in axis.images]
    found = {text.get_text(): text.get_position() for text in axis.texts}
    assert found.keys() == {"0.5", "0.7"}
    assert all(bottoms[2] < y < axis.get_ylim()[0] for _, y in found.values())
    assert found["0.5"][0] == 0.5 < found["0.7"][0]
