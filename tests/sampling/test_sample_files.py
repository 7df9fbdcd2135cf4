"""Picture files as they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freeflow_lightning.sampling.sample_files import read_picture

COLOURS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def test_a_palette_is_read_by_its_colours_and_not_by_its_numbers():
    image = Image.fromarray(COLOURS)
    image.save("plain.png")
    image.quantize(16).save("palette.png")
    plain = read_picture(Path("plain.png"))
    assert torch.equal(plain, torch.from_numpy(COLOURS).permute(2, 0, 1))
    assert torch.equal(read_picture(Path("palette.png")), plain)


def test_what_is_no_picture_of_8_bits_is_refused():
    Path("words.png").write_text("no picture")
    Image.fromarray(np.ones((2, 2), np.uint16)).save("deep.png")
    for name, said in (("words.png", "cannot be read as a picture"), ("deep.png", "of 8 bits")):
        with pytest.raises(ValueError, match=said):
            read_picture(Path(name))
