"""examples/galaxies: a published file's layout is read as its network computes, and the config distils it."""

import runpy
import sys
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from nets.random_weights import randomized
from places import ROOT

FOLDER = ROOT / "examples" / "galaxies"
SIZE, PATCH, HIDDEN = 8, 4, 6


@pytest.fixture
def example(monkeypatch):
    """The example's folder can be imported from."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("galaxy_net", "galaxies"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def leaves_of(net, end_time=10.0):
    """The arrays of this network's .eqx file, in the order of its fields, and conv_out's kernel there."""
    kernel = np.random.default_rng(0).normal(size=(1, HIDDEN, PATCH, PATCH)).astype(np.float32)
    arrays = [
        net.conv_in.weight,
        net.conv_in.bias[:, None, None],
        kernel,
        net.conv_out.bias[:, None, None],
    ]
    for block in net.blocks:
        linear = (
            block.patch_mixer[0],
            block.patch_mixer[2],
            block.hidden_mixer[0],
            block.hidden_mixer[2],
        )
        for module in (*linear, block.norm1, block.norm2):
            arrays += [module.weight, module.bias]
    arrays += [net.norm.weight, net.norm.bias, np.float32(end_time)]
    return [np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) for a in arrays], kernel


@pytest.fixture
def published(example, tmp_path):
    """A wheel with a network of that layout, the network, and the kernel of its last layer there."""
    from galaxy_net import ScoreNet

    net = randomized(ScoreNet(SIZE, PATCH, HIDDEN, 10, 12, 2), seed=3)
    leaves, kernel = leaves_of(net)
    with (
        ZipFile(tmp_path / "galaxygrad.whl", "w") as wheel,
        wheel.open("galaxygrad/eqx_tiny.eqx", "w") as file,
    ):
        for leaf in leaves:
            np.save(file, leaf)
    return net, kernel


def test_a_converted_file_computes_what_was_published(published, tmp_path, monkeypatch, capsys):
    net, kernel = published
    monkeypatch.setattr(sys, "argv", ["convert.py", "galaxygrad.whl"])
    runpy.run_path(str(FOLDER / "convert.py"), run_name="__main__")
    assert capsys.readouterr().out == "tiny\n"
    monkeypatch.setattr(sys, "argv", ["convert.py", "galaxygrad.whl", "tiny"])
    runpy.run_path(str(FOLDER / "convert.py"), run_name="__main__")
    from galaxies import GalaxyTeacher

    teacher = GalaxyTeacher("galaxies.safetensors")
    assert teacher.sample_shape == (1, SIZE, SIZE)
    y, tau = torch.randn(3, 1, SIZE, SIZE), torch.tensor([0.1, 1.0, 9.0])
    h = net.norm(net.blocks[1](net.blocks[0](net.enter(y, tau).flatten(2)))).view(3, HIDDEN, 2, 2)
    # a correlation of the input, spread to every fourth pixel, with the kernel as it is
    wide = torch.zeros(3, HIDDEN, SIZE + 3, SIZE + 3)
    wide[:, :, 3::4, 3::4] = h[..., :2, :2]
    score = torch.nn.functional.conv2d(wide, torch.tensor(kernel), net.conv_out.bias)
    network = teacher.backbone().net
    torch.testing.assert_close(network(y, tau, None), score, atol=1e-4, rtol=1e-4)
    t = torch.tensor([0.2, 0.5, 0.9])
    tau = torch.log1p((t / (1 - t)) ** 2)
    a, b = ((-tau / 2).exp(), (1 - (-tau).exp()).sqrt())
    a, b = (each[:, None, None, None] for each in (a, b))
    x = torch.randn(3, 1, SIZE, SIZE)
    y = (a + b) * x
    noise = -b * network(y, tau, None)
    u = (y - b * noise) / a - noise
    torch.testing.assert_close(teacher.velocity(x, t, None), u, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("cut", "end_time", "message"),
    [(1, 10.0, "12 for each block of a ScoreNet, got 30"), (0, 5.0, "times up to 10, got 5")],
)
def test_another_file_is_refused(published, cut, end_time, message):
    from galaxy_net import state_of

    leaves, _ = leaves_of(published[0], end_time)
    with pytest.raises(ValueError, match=message):
        state_of(leaves[cut:])


def test_its_config_distils_it(published, freeflow, monkeypatch, said):
    monkeypatch.setattr(sys, "argv", ["convert.py", "galaxygrad.whl", "tiny"])
    runpy.run_path(str(FOLDER / "convert.py"), run_name="__main__")
    small = {
        "--trainer.max_steps": 2,
        "--trainer.callbacks": "[]",
        "--trainer.enable_progress_bar": "false",
        "--model.check_teacher": "false",
        "--data.batch_size": 4,
        "--data.length": 2,
        "--data.val_samples": 0,
    }
    words = (f"{name}={value}" for name, value in small.items())
    code, _, error = freeflow("fit", "--config", FOLDER / "galaxies.yaml", *words)
    assert code == 0, error
    assert any("student_lr / 32.28" in line for line in said())


def test_features_tell_round_light_from_scattered(example):
    from galaxies import GalaxyFeatures

    r = torch.arange(32) - 15.5
    square = r[:, None] ** 2 + r**2
    spot = (255 * (-square / 20).exp()).round().byte().expand(1, 1, 32, 32)
    scattered = torch.randint(
        256, (1, 1, 32, 32), generator=torch.Generator().manual_seed(0)
    ).byte()
    features = GalaxyFeatures()
    round_, noise = features(spot)[0, 64:], features(scattered)[0, 64:]
    assert features(spot).shape == (1, 76)
    assert round_[9] == pytest.approx(0, abs=1e-5)  # half turned it is itself
    assert noise[9] > 0.5
    assert round_[3] > 0.9  # within 8 pixels
    assert noise[3] < 0.3
