"""Sheets of many pictures, with gaps between them and a word above each: made without matplotlib,
which takes half a second to import.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 0.06
"""Space between pictures, in widths of a picture."""
HEIGHT = 512
"""Pixels that the pictures of a sheet are enlarged to fill, if they are small."""
SMALLEST, LARGEST = 11, 22
"""Heights of letters in pixels; between them they are a quarter of a picture's width."""


def sheet_of(
    drawn: Tensor, columns: int | None = None, captions: Sequence[str] | None = None
) -> Image.Image:
    """Return pictures in lines, on white; small ones are enlarged by a whole number.

    Args:
        drawn: pictures, uint8 [N, C, H, W].
        columns: pictures in a line; a square of them if not given.
        captions: words above each, in a line or a few.
    """
    n, _, height, width = drawn.shape
    columns = columns or math.ceil(math.sqrt(n))
    lines = math.ceil(n / columns)
    zoom = max(1, HEIGHT // (lines * height))
    tile = width * zoom, height * zoom
    gap = max(1, round(GAP * tile[0]))
    letters = min(LARGEST, max(SMALLEST, tile[0] // 4))
    words = max((len(caption.splitlines()) for caption in captions or ()), default=0)
    band = gap if captions is None else round((0.2 + 1.2 * words) * letters)
    pitch = tile[0] + gap, tile[1] + band
    top = band if captions is not None else 0
    pictures = [Image.fromarray(picture_array(picture)) for picture in drawn]
    size = columns * pitch[0] - gap, lines * pitch[1] - band + top
    font = ImageFont.load_default(letters)
    sheet = Image.new(pictures[0].mode, size, "white")
    for k, picture in enumerate(pictures):
        line, column = divmod(k, columns)
        place = column * pitch[0], top + line * pitch[1]
        sheet.paste(picture.resize(tile, Image.Resampling.NEAREST), place)
        if captions is not None:
            middle = place[0] + tile[0] // 2, place[1]
            ImageDraw.Draw(sheet).text(
                middle, captions[k], "black", font, anchor="md", align="center"
            )
    return sheet


def tile(pictures: Tensor, columns: int) -> np.ndarray:
    """Return pictures, uint8 [N, C, H, W], side by side as one, uint8 [H', W', C] or [H', W']."""
    n, c, h, w = pictures.shape
    lines = -(-n // columns)
    sheet = torch.zeros(lines * columns, c, h, w, dtype=torch.uint8)
    sheet[:n] = pictures
    by_line = sheet.view(lines, columns, c, h, w).permute(2, 0, 3, 1, 4)
    return picture_array(by_line.reshape(c, lines * h, columns * w))


def picture_array(picture: Tensor) -> np.ndarray:
    """Return a picture [C, H, W] as [H, W, C] or [H, W]: of latents with 2, or more than 4,
    channels the first one or three.
    """
    channels = len(picture)
    if channels not in (1, 3, 4):
        picture = picture[: 1 if channels < 3 else 3]
    array = picture.permute(1, 2, 0).cpu().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
