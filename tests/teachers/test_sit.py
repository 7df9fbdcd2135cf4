import json
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from freeflow_lightning.nets import SiT
from freeflow_lightning.teachers import (
    REPA,
    SIT,
    Convention,
    GaussianMixtureTeacher,
    SiTTeacher,
    SiTVelocity,
    VelocityTeacher,
    load_sit,
    save_sit,
)
from teachers.mixture import LABELS, MEANS, STD, WEIGHTS, batch, posterior

ARCHITECTURE = {
    "input_size": 4,
    "patch_size": 2,
    "in_channels": 1,
    "hidden_size": 8,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 3,
}


def sits_network(x, tau, label):
    """The mixture as SiT would learn it: x = tau data + (1 - tau) noise, output data - noise."""
    data, noise = posterior(x, tau, 1 - tau, label)
    return data - noise


def repas_network(x, t, label):
    """The mixture as REPA would learn it: x = (1 - t) data + t noise, output noise - data."""
    data, noise = posterior(x, 1 - t, t, label)
    return noise - data


@pytest.mark.parametrize(
    ("network", "convention"), [(sits_network, "sit"), (repas_network, "repa")]
)
def test_a_network_in_its_own_convention_becomes_u(network, convention):
    x, t, label = batch()
    exact = GaussianMixtureTeacher(MEANS, STD, WEIGHTS, LABELS).velocity(x, t, label)
    torch.testing.assert_close(
        SiTVelocity(network, convention)(x, t, label), exact, atol=1e-12, rtol=1e-12
    )


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="'sit' or 'repa', got 'edm'"):
        SiTVelocity(nn.Identity(), "edm")


@pytest.mark.parametrize(("name", "convention"), [("sit", SIT), ("repa", REPA)])
def test_names_of_configs_and_files_are_the_constants(name, convention):
    assert SiTVelocity(nn.Identity(), name).convention is convention
    assert Convention(convention.prior_time, convention.sign) == convention


def test_a_convention_without_a_name_is_no_teachers_file(tmp_path):
    with pytest.raises(ValueError, match=r"not Convention\(prior_time=1, sign=1\)"):
        save_sit(tmp_path / "sit.safetensors", velocity(Convention(1, 1)))
    with pytest.raises(ValueError, match="sign 1 or -1, got 0 and 2"):
        Convention(0, 2)


def velocity(convention="sit"):
    torch.manual_seed(0)
    net = SiT(**ARCHITECTURE)
    for p in net.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return SiTVelocity(net, convention)


def states(n=4):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 1, 4, 4, generator=g),
        torch.rand(n, generator=g),
        torch.randint(4, (n,), generator=g),
    )


@pytest.mark.parametrize("convention", ["sit", "repa"])
def test_a_saved_network_loads_bit_for_bit(tmp_path, convention):
    original = velocity(convention)
    save_sit(tmp_path / "teacher.safetensors", original)
    teacher = SiTTeacher(tmp_path / "teacher.safetensors")
    assert torch.equal(teacher.velocity(*states()), original(*states()))
    assert (teacher.sample_shape, teacher.num_classes) == ((1, 4, 4), 3)
    weights, loaded = (
        original.net.state_dict(),
        load_sit(str(tmp_path / "teacher.safetensors")).net.state_dict(),
    )
    assert weights.keys() == loaded.keys()
    assert all(torch.equal(weights[key], loaded[key]) for key in weights)


def test_a_stated_convention_must_be_the_files(tmp_path):
    save_sit(tmp_path / "repa.safetensors", velocity("repa"))
    assert SiTTeacher(tmp_path / "repa.safetensors", "repa").function.convention == REPA
    with pytest.raises(ValueError, match="holds a 'repa' network, not 'sit'"):
        SiTTeacher(tmp_path / "repa.safetensors", "sit")


def rewritten(path, edit=lambda weights: None, about=None):
    """The file of `velocity()` with its weights edited or its metadata replaced."""
    save_sit(path, velocity())
    weights = load_file(path)
    edit(weights)
    metadata = (
        {"architecture": json.dumps(ARCHITECTURE), "convention": "sit"} if about is None else about
    )
    save_file(weights, path, metadata)


FAULTS = {
    "random bytes": (
        lambda path: path.write_bytes(bytes(range(256)) * 8),
        "not a readable safetensors file",
    ),
    "empty": (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"a": 1})),
        "not a readable safetensors file",
    ),
    "checkpoint": (
        lambda path: torch.save({"a": torch.ones(1)}, path),
        "not a readable safetensors file",
    ),
    "no metadata": (lambda path: rewritten(path, about={}), "carries no architecture"),
    "no convention": (
        lambda path: rewritten(path, about={"architecture": "{}"}),
        "carries no architecture",
    ),
    "missing": (
        lambda path: rewritten(path, lambda w: w.pop("pos_embed")),
        r"do not fit its architecture.*(?s:.)*pos_embed",
    ),
    "extra": (
        lambda path: rewritten(path, lambda w: w.update(a=torch.ones(1))),
        r"do not fit(?s:.)*Unexpected",
    ),
    "shape": (
        lambda path: rewritten(path, lambda w: w.update(pos_embed=torch.ones(1))),
        r"do not fit(?s:.)*size mismatch",
    ),
    "integers": (
        lambda path: rewritten(path, lambda w: w.update(pos_embed=w["pos_embed"].long())),
        "pos_embed: expected floating point numbers, got int64: save the network's own weights",
    ),
    "convention": (
        lambda path: rewritten(
            path, about={"architecture": json.dumps(ARCHITECTURE), "convention": "edm"}
        ),
        "'sit' or 'repa', got 'edm'",
    ),
    "argument": (
        lambda path: rewritten(path, about={"architecture": '{"widht": 8}', "convention": "sit"}),
        "cannot build.*widht",
    ),
    "json": (
        lambda path: rewritten(path, about={"architecture": "{", "convention": "sit"}),
        "cannot build",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_with_its_name(tmp_path, fault):
    write, message = FAULTS[fault]
    path = tmp_path / "teacher.safetensors"
    write(path)
    with pytest.raises(ValueError, match=message) as error:
        load_sit(path)
    assert "teacher.safetensors" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nothing.safetensors"))):
        load_sit(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="no_such_teacher"):
        load_sit("embedded:no_such")


def test_reading_executes_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "teacher.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a readable"):
        load_sit(tmp_path / "teacher.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_students_copy_trains_all_but_the_position_embedding(tmp_path, frozen):
    save_sit(tmp_path / "teacher.safetensors", velocity())
    teacher = SiTTeacher(tmp_path / "teacher.safetensors").requires_grad_(not frozen)
    twin = teacher.network()
    fixed = {name for name, p in twin.named_parameters() if not p.requires_grad}
    assert fixed == {"net.pos_embed"}
    assert torch.equal(twin(*states()), teacher(*states()))


def test_the_students_copy_is_independent(tmp_path):
    save_sit(tmp_path / "teacher.safetensors", velocity())
    teacher = SiTTeacher(tmp_path / "teacher.safetensors").requires_grad_(False)
    expected, twin = teacher(*states()), teacher.network()
    twin(*states()).square().sum().backward()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    assert torch.equal(teacher(*states()), expected)
    assert not torch.allclose(twin(*states()), expected)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_an_unconditional_teacher_is_the_null_class_alone(tmp_path):
    save_sit(tmp_path / "teacher.safetensors", velocity("repa"))
    teacher = SiTTeacher(tmp_path / "teacher.safetensors")
    alone = SiTTeacher(tmp_path / "teacher.safetensors", unconditional=True)
    x, t, label = states()
    expected = teacher.velocity(x, t, teacher.null_condition(label))
    torch.testing.assert_close(alone.velocity(x, t, None), expected)
    assert not torch.allclose(expected, teacher.velocity(x, t, torch.zeros_like(label)))
    assert alone.num_classes == 0
    assert alone.draw_condition(2, torch.Generator()) is None
    assert torch.equal(alone.network()(x, t), alone.velocity(x, t, None))
    with pytest.raises(ValueError, match="these weights have no null class"):
        SiT(**ARCHITECTURE, null_class=False).without_classes()
    with pytest.raises(ValueError, match="these weights have no null class"):
        alone.function.net.without_classes()


def test_a_wrapped_sit_that_trains_keeps_its_fixed_position_embedding():
    twin = VelocityTeacher(velocity(), (1, 4, 4), num_classes=3).network()
    assert {name for name, p in twin.named_parameters() if not p.requires_grad} == {"net.pos_embed"}
