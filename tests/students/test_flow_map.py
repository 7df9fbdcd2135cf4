import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import freeflow_lightning
from freeflow_lightning import FlowMap
from freeflow_lightning.callbacks import StudentEMA
from tiny import fit, mixture, module

BUILT = {"class_path": "freeflow_lightning.FreeFlowModule"}
TEACHER = {"means": [[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0]], "std": 0.4, "labels": [0, 1, 1]}
NETWORK = {"sample_shape": [2], "hidden_size": 16, "depth": 2, "num_classes": 2}


@pytest.fixture
def trained(tmp_path):
    """A module after two steps and its checkpoint, with the config that `freeflow fit` would have written into it."""
    m = module(guidance_range=(1.0, 2.0))
    fit(
        m,
        StudentEMA([0.9, 0.5]),
        ModelCheckpoint(tmp_path, "last", every_n_train_steps=2),
        max_steps=2,
        enable_checkpointing=True,
    )
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    arguments = {
        "teacher": {
            "class_path": "freeflow_lightning.teachers.GaussianMixtureTeacher",
            "init_args": TEACHER,
        },
        "network": {"class_path": "freeflow_lightning.nets.MLP", "init_args": NETWORK},
    }
    torch.save(checkpoint | {"hyper_parameters": BUILT | {"init_args": arguments}}, path)
    return m, path


def expected(m, network, n=5, seed=0, guidance=1.5):
    z, y = m.teacher.draw_indexed(torch.arange(n), seed=seed, stream="samples")
    one = torch.ones(n)
    with torch.no_grad():
        return z + network(z, one, y, delta=one, gamma=guidance * one)


@pytest.mark.parametrize(
    ("average", "attribute"),
    [(None, "ema_0_9"), ("ema_0_9", "ema_0_9"), ("ema_0_5", "ema_0_5"), ("raw", None)],
)
def test_it_is_the_network_of_the_checkpoint(trained, average, attribute):
    m, path = trained
    network = m.averages[attribute] if attribute else m.student
    flow_map = FlowMap.from_checkpoint(path, average=average)
    assert torch.equal(flow_map.sample(8), expected(m, network, 8))
    assert not flow_map.network.training
    assert flow_map.guidance_range == (1.0, 2.0)


def test_a_sample_is_a_function_of_seed_and_index(trained):
    flow_map = FlowMap.from_checkpoint(trained[1])
    whole = flow_map.sample(10, seed=3)
    for batch_size in (1, 3, 10, 64):
        torch.testing.assert_close(
            flow_map.sample(10, seed=3, batch_size=batch_size), whole, rtol=1e-6, atol=1e-6
        )
    torch.testing.assert_close(flow_map.sample(4, seed=3, first=6), whole[6:], rtol=1e-6, atol=1e-6)
    assert not torch.isin(flow_map.sample(10, seed=4), whole).any()


def test_given_conditions_stay_with_their_samples(trained):
    m, path = trained
    flow_map = FlowMap.from_checkpoint(path)
    labels = torch.tensor([0, 1, 1, 0, 1])
    z, _ = m.teacher.draw_indexed(torch.arange(5), seed=0, stream="samples")
    torch.testing.assert_close(
        flow_map.sample(5, labels, batch_size=2), flow_map(z, labels), rtol=1e-6, atol=1e-6
    )
    assert not torch.allclose(flow_map(z, labels), flow_map(z, 1 - labels))


def test_delta_and_guidance_reach_the_network(trained):
    flow_map = FlowMap.from_checkpoint(trained[1])
    z, y = (
        torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
        torch.zeros(3, dtype=torch.long),
    )
    assert torch.equal(flow_map(z, y, delta=0.0), z)
    assert not torch.equal(flow_map(z, y, guidance=1.0), flow_map(z, y, guidance=2.0))
    assert torch.equal(flow_map(z, y, guidance=torch.full((3,), 2.0)), flow_map(z, y, guidance=2.0))


def test_the_guidance_that_nobody_gives_is_the_runs_or_the_middle_of_the_range():
    m = module()
    network, teacher = m.student, m.teacher
    assert FlowMap(network, teacher, (1.0, 4.0)).evaluation_guidance == 2.5
    about = {"evaluation_guidance": 1.0}
    assert FlowMap(network, teacher, (1.0, 4.0), about).evaluation_guidance == 1.0


def test_guidance_outside_the_trained_range_is_said(trained):
    flow_map = FlowMap.from_checkpoint(trained[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow_map.sample(1, guidance=2.0)
    with pytest.warns(UserWarning, match=r"guidance 2.5 is outside \[1.0, 2.0\]"):
        flow_map.sample(1, guidance=2.5)
    with pytest.raises(ValueError, match="expected n to be an integer of at least 1, got 0"):
        flow_map.sample(0)


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0],
        (1, 0),
        range(1, -1, -1),
        torch.tensor([1, 0], dtype=torch.int32),
        np.array([1, 0]),
        list(np.array([1, 0])),
    ],
)
def test_labels_are_a_list_a_tensor_or_an_array(labels):
    m = module()
    flow_map, right = FlowMap(m.student, m.teacher), torch.tensor([1, 0])
    assert torch.equal(flow_map.sample(2, labels), flow_map.sample(2, right))
    assert torch.equal(flow_map(torch.ones(2, 2), labels), flow_map(torch.ones(2, 2), right))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"delta": 2.0}, "expected delta to be a finite number from 0 to 1, got 2.0"),
        ({"delta": torch.tensor([0.5, math.nan])}, "expected delta to be a finite number"),
        ({"delta": torch.ones(3)}, r"one delta, or one for each of the 2 samples, .*\[3\]"),
        ({"guidance": math.nan}, "expected guidance to be a finite number of at least 0, got nan"),
        ({"guidance": torch.tensor([1.0, -1.0])}, "expected guidance to be .* got -1.0"),
        ({"guidance": "1.5"}, "expected guidance to be .* got '1.5'"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(numbers, message):
    m = module()
    with pytest.raises(ValueError, match=message):
        FlowMap(m.student, m.teacher)(torch.ones(2, 2), [0, 1], **numbers)


@pytest.mark.parametrize("z", [torch.ones(0, 2), torch.ones(2, 2).int(), np.ones((2, 2))])
def test_what_is_no_noise_is_refused(z):
    m = module()
    with pytest.raises(ValueError, match="expected noise as a tensor of at least one sample"):
        FlowMap(m.student, m.teacher)(z, [0, 1])


def test_what_is_no_student_is_refused(trained):
    m, path = trained
    for parts in ((None, m.teacher), (m.student, None)):
        with pytest.raises(ValueError, match="expected a network and its Teacher, got "):
            FlowMap(*parts)
    for given in ({"teacher": "SiTTeacher"}, {"network": torch.nn.Linear}):
        with pytest.raises(ValueError, match=r"expected a (Teacher|Module), got .*construct it"):
            FlowMap.from_checkpoint(path, **given)
    with pytest.raises(ValueError, match="has no average ''"):
        FlowMap.from_checkpoint(path, average="")


@pytest.mark.parametrize("verb", ["evaluate", "diagnose", "search", "export"])
def test_a_verb_of_a_path_says_how_to_open_it(verb, tmp_path):
    output = [tmp_path] if verb == "export" else []
    with pytest.raises(ValueError, match=r"expected a FlowMap, got a str: open a checkpoint with "):
        getattr(freeflow_lightning, verb)("last.ckpt", *output)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2, 2], r"expected classes in 0 .. 1, got \[2\]"),
        ([-1, 0], r"expected classes in 0 .. 1, got \[-1, 0\]"),
        ([0, 1, 0, 1], r"each of the 2 samples, got torch.int64 of shape \[4\]"),
        ([0], r"of shape \[1\]"),
        (1, r"of shape \[\]"),
        ([0.5, 1.0], "got torch.float32"),
        ([True, False], "got torch.bool"),
        (torch.tensor([[0], [1]]), r"label for each of the 2 samples, got torch.int64 .*\[2, 1\]"),
        (torch.eye(2), r"each of the 2 samples, got torch.float32 of shape \[2, 2\]"),
        (np.array([0.0, 1.0]), "got torch.float64"),
        (np.array(["a", "b"]), "expected class labels, got array"),
        ([0, 10**30], "expected class labels, got "),
        ({"label": torch.tensor([0, 1])}, "each of the 2 samples, got a dict"),
        ([None, None], "each of the 2 samples, got a list"),
        ("01", "each of the 2 samples, got a str"),
    ],
)
def test_labels_that_there_are_not_are_refused(labels, message):
    m = module()
    flow_map = FlowMap(m.student, m.teacher)
    for draw in (lambda: flow_map.sample(2, labels), lambda: flow_map(torch.ones(2, 2), labels)):
        with pytest.raises(ValueError, match=message):
            draw()


def test_what_cannot_be_drawn_is_refused():
    m = module()
    flow_map = FlowMap(m.student, m.teacher)
    for guidance in (math.nan, math.inf, -1.0):
        with pytest.raises(
            ValueError, match="expected guidance to be a finite number of at least 0"
        ):
            flow_map.sample(2, guidance=guidance)
    for setting in (
        {"n": 2.5},
        {"n": True},
        {"batch_size": 0},
        {"first": -1},
        {"seed": 1.5},
        {"seed": None},
        {"seed": torch.tensor(0)},  # which drew other samples than the seed 0
    ):
        with pytest.raises(ValueError, match=f"expected {next(iter(setting))} to be an integer"):
            flow_map.sample(**({"n": 2} | setting))
    with pytest.raises(ValueError, match=r"expected noise \[batch, 2\], got \[2, 3\]"):
        flow_map(torch.zeros(2, 3), [0, 1])
    with pytest.raises(
        ValueError, match="a class label for each of the 2 samples, got no condition"
    ):
        flow_map(torch.zeros(2, 2))


class Trap:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_what_is_no_checkpoint_is_refused(trained, tmp_path):
    path = tmp_path / "file.ckpt"
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint at .*file.ckpt: expected a .ckpt file"
    ):
        FlowMap.from_checkpoint(path)
    whole = trained[1].read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"file.ckpt is not a readable checkpoint"):
            FlowMap.from_checkpoint(path)
    for save in (
        lambda: torch.save({"state_dict": Trap()}, path),
        lambda: path.write_bytes(pickle.dumps(Trap())),
    ):
        save()
        with pytest.raises(ValueError, match=r"loading it would run code"):
            FlowMap.from_checkpoint(path)
    assert not (tmp_path / "executed").exists()
    torch.save({"x": 1}, path)
    with pytest.raises(ValueError, match=r"has no state_dict"):
        FlowMap.from_checkpoint(path)


def test_what_does_not_fit_is_refused(trained, tmp_path):
    _, path = trained
    with pytest.raises(
        ValueError, match=r"no average 'ema_1': expected one of \['ema_0_9', 'ema_0_5', 'raw'\]"
    ):
        FlowMap.from_checkpoint(path, average="ema_1")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["student.backbone.out.bias"]
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"(?s)do not fit its config: .*out.bias"):
        FlowMap.from_checkpoint(tmp_path / "other.ckpt", average="raw")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["student.backbone.out.bias"] = torch.ones(2, dtype=torch.bool)
    torch.save(checkpoint, tmp_path / "rounded.ckpt")
    with pytest.raises(ValueError, match=r"out.bias: expected floating point numbers, got bool"):
        FlowMap.from_checkpoint(tmp_path / "rounded.ckpt", average="raw")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["hyper_parameters"]
    torch.save(checkpoint, tmp_path / "older.ckpt")  # as version 0.1.0 wrote it from Python
    with pytest.raises(
        ValueError, match=r"does not say its settings .*load_from_checkpoint\(path, teacher="
    ):
        FlowMap.from_checkpoint(tmp_path / "older.ckpt", teacher=mixture())
