"""Sheets of many pictures: what stands where."""

import numpy as np
import pytest
import torch

from freeflow_lightning.sampling.sheets import sheet_of


def grays(*values, side=8):
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, side, side)


def test_pictures_stand_in_lines_with_white_gaps_between():
    sheet = np.asarray(sheet_of(grays(10, 20, 30, 40, 50), columns=3))
    tile, gap = 256, 15  # of 512 pixels in two lines
    assert sheet.shape == (2 * tile + gap, 3 * tile + 2 * gap)
    for k, value in enumerate((10, 20, 30, 40, 50)):
        top, left = divmod(k, 3)[0] * (tile + gap), k % 3 * (tile + gap)
        assert (sheet[top : top + tile, left : left + tile] == value).all()
    assert (sheet[:tile, tile : tile + gap] == 255).all()
    assert (sheet[tile : tile + gap] == 255).all()
    assert (sheet[tile + gap :, 2 * (tile + gap) :] == 255).all()  # nothing stands here


@pytest.mark.parametrize("words", ["7", "7\n7\n7"])
def test_a_caption_is_written_above_its_own_picture(words):
    sheet = np.asarray(sheet_of(grays(200, 200, 200, 200), columns=2, captions=["", "", words, ""]))
    assert (sheet[:, :256] == 200).all(1).sum() == 512  # both pictures at the left are whole
    sheet = sheet[np.flatnonzero((sheet == 200).any(1))[255] + 1 :]  # below the first line
    dark = np.argwhere(sheet < 100)
    tops = np.flatnonzero((sheet == 200).any(1))
    assert 0 < dark[:, 0].min() <= dark[:, 0].max() < tops[0]
    assert abs(dark[:, 1].mean() - 128) < 8


def test_letters_of_the_smallest_pictures_do_not_touch_them():
    captions = ["1000"] * 256
    sheet = np.asarray(sheet_of(grays(*[200] * 256), captions=captions))
    assert ((sheet == 200).sum(1) % 32 == 0).all()  # every picture is whole
    white = (sheet == 255).all(1)
    assert white.sum() >= 16  # a clear line above or below each line of words


def test_large_pictures_in_colour_keep_their_size():
    sheet = sheet_of(torch.zeros(1, 3, 600, 600, dtype=torch.uint8))
    assert (sheet.mode, sheet.size) == ("RGB", (600, 600))
