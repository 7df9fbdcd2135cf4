"""ONNX by onnxruntime and torch.export against the student itself."""

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import take
from freeflow_lightning.nets import SecondState, SplitConditioned, StateConditioned
from freeflow_lightning.sampling.jumps import Jumps, fresh_noise
from freeflow_lightning.students.export.graphs import agreement, export_onnx, export_torch
from freeflow_lightning.students.export.sample_graph import VAE, Example, SampleGraph
from nets.random_weights import tiny_sit
from students.export import students
from teachers.diffusers.test_previews import KL, vae
from tiny import shaken


def example(made, n=5):
    z, condition = made.teacher.draw_indexed(torch.arange(n), seed=0, stream="test")
    return Example(z, torch.linspace(1, 2, n), condition)


@pytest.mark.parametrize("name", ["SiT", "MLP", "DDPM", "own network"])
@torch.no_grad()
def test_torch_export_gives_the_same_samples_for_any_batch(name, tmp_path):
    made = students.STUDENTS[name]()
    found = export_torch(SampleGraph(made.network), example(made), tmp_path / "map.pt2")
    assert found.difference < 1e-5
    assert found.largest_batch is None
    loaded = torch.export.load(tmp_path / "map.pt2").module()
    for n in (1, 2, 13):
        part = example(made, n)
        torch.testing.assert_close(
            loaded(*part.arguments()),
            made(part.z, part.condition, part.gamma),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SiT", "MLP", "official", "EDM", "DDPM"])
@torch.no_grad()
def test_onnxruntime_gives_the_same_pixels_for_any_batch(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    made = students.STUDENTS[name]()
    path = tmp_path / "map.onnx"
    found = export_onnx(SampleGraph(made.network), example(made), path)
    assert found.different == 0
    session = runtime.InferenceSession(path)
    inputs = {entry.name for entry in session.get_inputs()}
    assert inputs <= {"z", "gamma", "labels"}
    assert {"z", "gamma"} <= inputs
    assert {entry.shape[0] for entry in session.get_inputs()} == {"batch"}
    for n in (1, 7, 32):
        part = example(made, n)
        x = torch.from_numpy(
            session.run(None, {k: v.numpy() for k, v in part.inputs().items() if k in inputs})[0]
        )
        expected = made(part.z, part.condition, part.gamma)
        torch.testing.assert_close(x, expected, atol=1e-4, rtol=1e-4)
        if x.ndim == 4:
            assert torch.equal(
                (127.5 * x + 128).clamp(0, 255).byte(),
                (127.5 * expected + 128).clamp(0, 255).byte(),
            )


POSTERIORS = {
    "transition": lambda: SplitConditioned(tiny_sit(depth=2)),
    "kernel": lambda: StateConditioned(tiny_sit(depth=1)),
    "kernel, preconditioned": lambda: StateConditioned(
        tiny_sit(depth=1), second=SecondState(preconditioned=True)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POSTERIORS)
@torch.no_grad()
def test_draws_from_posteriors_are_graphs_of_a_fixed_number_of_steps(name, tmp_path):
    """Which take the fresh noise as an input."""
    pytest.importorskip("onnxruntime")
    network = shaken(POSTERIORS[name](), size=0.1)
    jumps = Jumps(2, name.partition(",")[0])
    z, gamma, labels = torch.randn(3, 3, 4, 4), torch.linspace(1, 2, 3), torch.tensor([0, 4, 2])
    noise = torch.stack([fresh_noise(z, k) for k in range(2)], 1)
    map_ = SampleGraph(network, jumps=jumps).eval()
    found = export_onnx(map_, Example(z, gamma, labels, noise), tmp_path / "map.onnx")
    assert found.difference < 1e-4
    assert found.largest_batch is None


@pytest.mark.slow
@torch.no_grad()
def test_the_decoder_can_be_inside(tmp_path):
    made = students.sit()
    torch.manual_seed(0)
    decoder = VAE(
        vae("AutoencoderKL", **(KL | {"latent_channels": 3})).eval(),
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor(0.5),
    )
    map_ = SampleGraph(made.network, decoder).eval()
    part = example(made)
    x = made(part.z, part.condition, part.gamma)
    expected = decoder.vae.decode(x / torch.tensor([1.0, 2.0, 4.0]).view(-1, 1, 1) + 0.5).sample
    torch.testing.assert_close(map_(*part.arguments()), expected)
    done = export_onnx(map_, part, tmp_path / "map.onnx")
    assert (done.pixels, done.largest_batch) == (expected.numel(), 63)
    assert done.words().endswith("; batches of 63 at most")


class Stubborn(nn.Module):
    """Its output depends on a number that a graph cannot know."""

    def forward(self, z, t, condition=None, delta=None, gamma=None):
        return z * float(z.sum())


def test_what_cannot_be_a_graph_is_refused(tmp_path):
    part = Example(torch.randn(4, 2), torch.ones(4), None)
    with pytest.raises(ValueError, match=r"torch.export cannot follow this student's network \("):
        export_torch(SampleGraph(Stubborn()), part, tmp_path / "map.pt2")


def test_other_samples_are_refused(tmp_path):
    made = students.sit()
    part = example(made)
    map_ = SampleGraph(made.network)
    right = lambda rows: made(rows.z, rows.condition, rows.gamma)
    assert (
        agreement(map_, part, right, tmp_path / "x.onnx")
        .words()
        .startswith("largest difference 0.0e+00; 0 of 240 pixels")
    )
    for wrong in (
        lambda rows: right(rows) + 0.02,
        lambda rows: right(rows._replace(gamma=torch.ones_like(rows.gamma))),
        lambda rows: right(rows) * float("nan"),
        lambda rows: right(rows) if len(rows.z) > 1 else right(rows) + 1,
    ):
        with pytest.raises(ValueError, match=r"x.onnx gives other samples than the student"):
            agreement(map_, part, wrong, tmp_path / "x.onnx")


def test_samples_that_are_no_pictures_are_compared_by_their_values(tmp_path):
    made = students.mlp()
    part = example(made)
    right = lambda rows: made(rows.z, rows.condition, rows.gamma)
    found = agreement(
        SampleGraph(made.network), part, lambda rows: right(rows) + 1e-5, tmp_path / "x.onnx"
    )
    assert found.words().startswith("largest difference 1.0e-05")
    with pytest.raises(ValueError, match=r"x.onnx gives other samples than the student"):
        agreement(
            SampleGraph(made.network), part, lambda rows: 1.02 * right(rows), tmp_path / "x.onnx"
        )


def test_the_first_rows_of_an_example():
    part = Example(torch.randn(4, 2), torch.ones(4), {"text": torch.randn(4, 3)})
    assert part.first(1).z.shape == (1, 2)
    assert torch.equal(part.first(2).condition["text"], take(part.condition, slice(0, 2))["text"])
    assert part.inputs().keys() == {"z", "gamma", "text"}
