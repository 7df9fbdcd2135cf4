"""EDM's preconditioning, its guiding network, and the converted files."""

import json
import pickle
import runpy
import sys
import types

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import guide
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.teachers import EDMTeacher
from places import ROOT

SHAPE = (3, 4, 4)
TOOL = ROOT / "notebooks" / "tools" / "convert_edm.py"


class UNet(nn.Module):
    """Something with EDM2's calling convention: time through a weight of its own class, one-hot labels."""

    def __init__(self, img_channels: int = 3, label_dim: int = 3, width: int = 8):
        super().__init__()
        self.emb_noise = Weight(width, 1)
        self.emb_label = Weight(width, label_dim) if label_dim else None
        self.conv_in, self.conv_out = (
            nn.Conv2d(img_channels, width, 3, padding=1),
            nn.Conv2d(width, img_channels, 3, padding=1),
        )
        self.init_kwargs = {"img_channels": img_channels, "label_dim": label_dim, "width": width}

    def forward(self, x, noise_labels, class_labels):
        e = self.emb_noise(noise_labels[:, None])
        if self.emb_label is not None:
            e = e + self.emb_label(class_labels)
        return self.conv_out(torch.tanh(self.conv_in(x) * (1 + e[..., None, None])))


class Weight(nn.Module):
    def __init__(self, out, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inputs))

    def forward(self, x):
        return x @ self.weight.t()


class Precond(nn.Module):
    """EDM's denoiser around it (Karras et al. 2022, Table 1)."""

    def __init__(self, unet, sigma_data=0.5):
        super().__init__()
        self.unet, self.sigma_data = unet, sigma_data
        self.img_channels, self.img_resolution, self.label_dim = 3, 4, unet.init_kwargs["label_dim"]

    def forward(self, x, sigma, class_labels):
        s, sigma = self.sigma_data, sigma[:, None, None, None]
        root = (sigma**2 + s**2).sqrt()
        raw = self.unet(x / root, sigma.flatten().log() / 4, class_labels)
        return s**2 / root**2 * x + sigma * s / root * raw


def net(seed=0, **changes):
    torch.manual_seed(seed)
    return UNet(**changes)


def inputs(n=6):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, *SHAPE, generator=g),
        0.05 + 0.9 * torch.rand(n, generator=g),
        torch.arange(n) % 4,
    )


@pytest.mark.parametrize("data_scale", [1.0, 2.0])
def test_u_is_that_of_the_denoiser(data_scale):
    """u = (S D(x / ((1 - t) S); t / ((1 - t) S)) - x) / t."""
    x, t, label = inputs()
    one_hot = torch.eye(4)[label][:, :3]
    wide = t[:, None, None, None]
    state = x / ((1 - wide) * data_scale)
    D = Precond(net())(state, t / ((1 - t) * data_scale), one_hot)
    teacher = EDMTeacher(net(), SHAPE, 3, data_scale=data_scale)
    torch.testing.assert_close(
        teacher.velocity(x, t, label), (data_scale * D - x) / wide, atol=2e-5, rtol=1e-4
    )


def test_u_is_finite_at_both_ends_where_sigma_is_clamped():
    x, _, label = inputs()
    teacher, unet = EDMTeacher(net(), SHAPE, 3), net()
    one_hot = torch.eye(4)[label][:, :3]
    u = teacher.velocity(x, torch.ones(6), label)
    torch.testing.assert_close(u, 0.5 * unet(x, torch.full((6,), 80.0).log() / 4, one_hot) - x)
    assert teacher.velocity(x, torch.zeros(6), label).isfinite().all()


def test_scales_are_the_factor_of_the_raw_output():
    t = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(
        EDMTeacher(net(), SHAPE, 3).difference_scale(t),
        torch.tensor([1.0, 0.8944, 0.5]),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("label_dim", [3, 0])
def test_the_second_network_guides(label_dim):
    """With the same labels (autoguidance), which an unconditional one ignores."""
    x, t, label = inputs()
    weak = net(1, label_dim=label_dim)
    teacher = EDMTeacher(net(), SHAPE, 3, guide=weak)
    gamma = torch.linspace(1, 3, 6)
    expected = guide(
        teacher(x, t, label), EDMTeacher(weak, SHAPE, 3).velocity(x, t, label), t, gamma
    )
    torch.testing.assert_close(teacher.guided_velocity(label, gamma=gamma)(x, t), expected)
    torch.testing.assert_close(
        teacher.guided_velocity(label, gamma=torch.ones(6))(x, t), teacher(x, t, label)
    )
    assert not torch.allclose(
        teacher.guided_velocity(label, gamma=gamma)(x, t),
        EDMTeacher(net(), SHAPE, 3).guided_velocity(label, gamma=gamma)(x, t),
    )
    inside = teacher.guided_velocity(label, gamma=gamma, interval=(0.0, 0.4))(x, t)
    assert torch.equal(inside[t > 0.4], teacher(x, t, label)[t > 0.4])
    rows = (t <= 0.4).nonzero()[:, 0]
    torch.testing.assert_close(
        teacher.guided_velocity(label, gamma=gamma, interval=(0.0, 0.4), rows=rows)(x, t),
        inside,
        atol=1e-6,
        rtol=1e-5,
    )
    assert teacher.null_condition(label) is label


def test_without_labels_only_a_second_network_guides():
    x, t, _ = inputs()
    with pytest.raises(ValueError, match="no null condition"):
        EDMTeacher(net(label_dim=0), SHAPE).guided_velocity(None, gamma=torch.ones(6))(x, t)
    guided = EDMTeacher(net(label_dim=0), SHAPE, guide=net(1, label_dim=0)).guided_velocity(
        None, gamma=2 * torch.ones(6)
    )(x, t)
    assert guided.shape == x.shape


def test_the_guiding_network_is_not_the_students():
    teacher = EDMTeacher(net(), SHAPE, 3, guide=net(1))
    assert sum(p.numel() for p in teacher.network().parameters()) == sum(
        p.numel() for p in net().parameters()
    )


def test_the_network_stays_in_eval_mode():
    network = EDMTeacher(net(), SHAPE, 3).network().train()
    assert network.training
    assert not network.net.training
    assert not network.net.conv_in.training


def test_delta_and_gamma_enter_through_a_layer_of_another_class():
    x, t, label = inputs()
    teacher = EDMTeacher(net(), SHAPE, 3)
    student = ScalarConditioned(teacher.network(), ("delta",), "net.emb_noise")
    assert torch.equal(student(x, t, label, delta=t), teacher.velocity(x, t, label))
    student.embedders["delta"].mlp[2].bias.data += 1
    assert not torch.allclose(student(x, t, label, delta=t), teacher.velocity(x, t, label))


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """A pickle as EDM2 writes it, through the tool: (path of the safetensors file, what the tool printed)."""
    module = types.ModuleType("training.networks_edm2")
    module.UNet = UNet
    monkeypatch.setitem(sys.modules, "training", types.ModuleType("training"))
    monkeypatch.setitem(sys.modules, "training.networks_edm2", module)
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps({"ema": Precond(net().half())}))
    tool = runpy.run_path(str(TOOL))
    return tmp_path / "edm2.safetensors", tool["convert"](
        str(tmp_path / "edm2.pkl"), str(tmp_path / "edm2.safetensors")
    )


def test_a_converted_pickle_is_the_network(converted):
    path, _ = converted
    x, t, label = inputs()
    teacher = EDMTeacher(net(5), SHAPE, 3, checkpoint=path)
    expected = EDMTeacher(net().half().float(), SHAPE, 3)
    assert torch.equal(teacher.velocity(x, t, label), expected.velocity(x, t, label))
    guided = EDMTeacher(net(6), SHAPE, 3, guide=net(5), guide_checkpoint=path)
    assert torch.equal(guided.guide(x, t, label), expected.velocity(x, t, label))


def test_the_printed_section_builds_the_teacher(converted):
    from jsonargparse import ArgumentParser

    path, section = converted
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EDMTeacher, "teacher")
    teacher = parser.instantiate_classes(parser.parse_string(section)).teacher
    x, t, label = inputs()
    assert torch.equal(
        teacher.velocity(x, t, label), EDMTeacher(net(1), SHAPE, 3, path).velocity(x, t, label)
    )


def test_another_sigma_data_than_the_files_is_refused(converted):
    with pytest.raises(ValueError, match=r"trained with sigma_data = 0\.5, not 1"):
        EDMTeacher(net(), SHAPE, 3, checkpoint=converted[0], sigma_data=1.0)


def test_a_pickle_is_never_opened(tmp_path, converted):
    with pytest.raises(ValueError, match="not readable as plain tensors"):
        EDMTeacher(net(), SHAPE, 3, checkpoint=tmp_path / "edm2.pkl")


def test_a_guiding_checkpoint_wants_its_network():
    with pytest.raises(ValueError, match="guide_checkpoint is given without guide"):
        EDMTeacher(net(), SHAPE, 3, guide_checkpoint="a.safetensors")


def test_notes_are_json(converted):
    from freeflow_lightning.teachers.reading.weights import read_metadata

    facts = json.loads(read_metadata(converted[0])["edm"])
    assert facts["num_classes"] == 3
    assert facts["arguments"] == {"img_channels": 3, "label_dim": 3, "width": 8}
