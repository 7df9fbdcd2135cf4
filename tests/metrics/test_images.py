import pytest
import torch

from freeflow_lightning.metrics import from_uint8, to_uint8


def test_values_by_hand():
    x = torch.tensor([[-1.5, -1.0, -0.9961, -0.9960, 0.0, 0.00392, 0.5, 0.9960, 0.9961, 1.0, 7.0]])
    #  127.5 x + 128:   -63.25  0.5    0.997    1.01     128  128.4998 191.75 254.99   255.003  255.5
    assert to_uint8(x).tolist() == [[0, 0, 0, 1, 128, 128, 191, 254, 255, 255, 255]]


def test_every_8_bit_value_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)[:, None]
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_half_precision_pictures_are_converted_in_float32():
    x = torch.linspace(-1, 1, 999)[:, None].to(torch.bfloat16)
    assert torch.equal(to_uint8(x), to_uint8(x.float()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_counts_samples_that_are_not_finite(value):
    x = torch.zeros(5, 1, 2, 2)
    x[1, 0, 0], x[4, 0, 1, 1] = value, value
    with pytest.raises(ValueError, match="2 of 5 samples hold NaN or infinite"):
        to_uint8(x)


def test_refuses_the_other_representation():
    with pytest.raises(
        ValueError, match=r"expected floating-point pictures in \[-1, 1\], got torch"
    ):
        to_uint8(torch.zeros(1, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected uint8 images, got"):
        from_uint8(torch.zeros(1, 2))
