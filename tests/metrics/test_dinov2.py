import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.transforms.functional import InterpolationMode, normalize, resize

from freeflow_lightning.metrics import DINOv2Features

TINY = "vit_tiny_patch16_224"  # the plumbing is the same, the weights are random


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model(TINY, num_classes=0)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    return network.eval(), tmp_path


def test_features_are_timms_of_the_resized_picture(weights):
    network, folder = weights
    images = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    x = resize(images.float() / 255, [224, 224], InterpolationMode.BICUBIC, antialias=True).clamp(
        0, 1
    )
    with torch.no_grad():
        expected = network(normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for name in ("tiny.safetensors", "tiny.pth"):
        features = DINOv2Features(str(folder / name), TINY)
        torch.testing.assert_close(features(images), expected, rtol=1e-4, atol=1e-5)
        assert features.num_features == 192
    grey = images[:, :1]
    assert torch.equal(features(grey), features(grey.repeat(1, 3, 1, 1)))


def test_the_published_position_embedding_is_resampled(weights):
    network, folder = weights
    state = network.state_dict()
    own = DINOv2Features(str(folder / "tiny.safetensors"), TINY).network.pos_embed
    grid = (
        state["pos_embed"][:, 1:]
        .view(1, 14, 14, 192)
        .repeat_interleave(2, 1)
        .repeat_interleave(2, 2)
    )
    save_file(
        state | {"pos_embed": torch.cat([state["pos_embed"][:, :1], grid.reshape(1, -1, 192)], 1)},
        folder / "large.safetensors",
    )
    resampled = DINOv2Features(str(folder / "large.safetensors"), TINY).network.pos_embed
    assert resampled.shape == own.shape
    assert float((resampled - own).norm() / own.norm()) < 0.3


def test_missing_and_other_weights_are_said(weights, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no DINOv2 weights: download them \(huggingface.co/timm/vit_large"
    ):
        DINOv2Features()
    with pytest.raises(
        FileNotFoundError, match=r"no DINOv2 weights at gone\.safetensors: download"
    ):
        DINOv2Features("gone.safetensors")
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="do not fit vit_tiny"):
        DINOv2Features(str(tmp_path / "other.safetensors"), TINY)
    with pytest.raises(ValueError, match="expected uint8 images"):
        DINOv2Features(str(tmp_path / "tiny.safetensors"), TINY)(torch.zeros(1, 3, 8, 8))
