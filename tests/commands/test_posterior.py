"""freeflow sample --posterior: draws of p(x0 | x_t) against the mixture's own, from every kind of file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freeflow_lightning.sampling.draw_into import draw_into
from freeflow_lightning.sampling.noised_states import NoisedStates, read_states
from freeflow_lightning.sampling.sample_folder import SampleFolder
from freeflow_lightning.sampling.teacher_posterior import TeacherPosterior
from freeflow_lightning.teachers import GaussianMixtureTeacher

PLANE = GaussianMixtureTeacher([[1.5, 0.0], [-1.0, 1.0]], [0.3, 0.5], labels=[0, 1])
TEACHER = ["--teacher", "GaussianMixtureTeacher", "--teacher.means", "[[1.5,0.0],[-1.0,1.0]]"]
TEACHER += ["--teacher.std", "[0.3,0.5]", "--teacher.labels", "[0,1]"]
X = torch.tensor([[0.2, 0.3], [-0.5, 0.9], [1.0, 0.1]])
T = torch.tensor([0.6, 0.2, 0.3])


def drawn(folder) -> np.ndarray:
    return np.load(Path(folder, "samples.npz"))["arr_0"]


def kolmogorov(x, law, row, axis) -> float:
    """Distance of draws [N, 2] to one axis of the row of a mixture."""
    x = x[:, axis].double().sort().values
    means, std = law.means[row, :, axis].double(), law.stds[row].double()
    weights = law.log_weights[row].double().exp()
    cdf = (weights * torch.distributions.Normal(means, std).cdf(x[:, None])).sum(1)
    steps = torch.arange(len(x) + 1, dtype=x.dtype) / len(x)
    return float(torch.maximum((steps[1:] - cdf).abs(), (cdf - steps[:-1]).abs()).max())


def test_the_command_draws_each_state_s_own_posterior(freeflow):
    np.savez("given.npz", x=X.numpy(), t=T.numpy())
    words = ["sample", *TEACHER, "--posterior", "given.npz", "--num_samples", 3000, "--steps", 16]
    code, out, err = freeflow(*words, "--output", "p")
    assert code == 0, err
    assert "3000 draws from 3 posteriors at guidance 1 in p" in out
    draws, law = torch.from_numpy(drawn("p")), PLANE.posterior(X, T)
    critical = 1.95 / math.sqrt(1000)  # a tenth of a percent
    for row in range(3):
        for axis in range(2):
            assert kolmogorov(draws[row::3], law, row, axis) < critical
            assert kolmogorov(draws[row::3], law, (row + 1) % 3, axis) > 2 * critical
    code, _, err = freeflow(*words[:-1], 8, "--output", "p")
    assert code == 1
    assert "holds samples of another drawn by" in err
    code, _, err = freeflow(*words, "--classes", 1, "--output", "of_class")
    assert code == 0, err
    law = PLANE.posterior(X, T, torch.ones(3, dtype=torch.int64))
    assert kolmogorov(torch.from_numpy(drawn("of_class"))[::3], law, 0, 0) < critical


class Pixels(GaussianMixtureTeacher):
    """Pictures [1, 4, 4] around two grey values."""

    def __init__(self) -> None:
        super().__init__([[[[level] * 4] * 4] for level in (-0.5, 0.5)], 0.05)


def folder_of(path, states, count, **changes):
    folder = SampleFolder(
        Path(path), count, {"of": "states"} | states.facts(), npz=False, **changes
    )
    draw_into(folder, TeacherPosterior(Pixels(), steps=4), states)
    return folder


def test_a_folder_of_draws_goes_on_and_does_not_depend_on_its_batches():
    Image.fromarray(np.full((4, 4), 191, np.uint8)).save("grey.png")
    states = read_states(Path("grey.png"), Pixels(), 0.5, seed=3)
    assert states.x.shape == (1, 1, 4, 4)
    few = folder_of("few", states, 3, beside={"states.npz": states.to_npz()}).first(3)
    more = folder_of("few", states, 70, beside={"states.npz": states.to_npz()}).first(70)
    assert torch.equal(more[:3], few)
    assert not torch.equal(more[0], more[1])
    assert (more.float().mean((1, 2, 3)) > 150).float().mean() > 0.9  # a light one, noised
    again = read_states(Path("few/states.npz"), Pixels())
    assert torch.equal(again.x, states.x)
    assert torch.equal(again.t, states.t)


def test_clean_samples_are_noised_by_their_index_and_states_are_not():
    x0 = torch.rand(5, 1, 4, 4)
    torch.save({"x0": x0}, "clean.pt")
    np.save("noised.npy", x0.numpy())
    seen = read_states(Path("clean.pt"), Pixels(), 0.25, seed=1)
    noise = (seen.x - 0.75 * x0) / 0.25
    assert abs(float(noise.mean())) < 0.4
    assert abs(float(noise.std()) - 1) < 0.3
    torch.save({"x0": x0[:2]}, "fewer.pt")
    fewer = read_states(Path("fewer.pt"), Pixels(), 0.25, seed=1)
    assert torch.equal(fewer.x, seen.x[:2])
    assert torch.equal(read_states(Path("noised.npy"), Pixels(), 0.25).x, x0)
    pictures = np.full((2, 4, 4, 1), 255, np.uint8)
    np.savez("samples.npz", arr_0=pictures, arr_1=np.array([1, 0]))
    labelled = GaussianMixtureTeacher(Pixels().means, 0.05, labels=[0, 1])
    of_samples = read_states(Path("samples.npz"), labelled, 1e-6)
    torch.testing.assert_close(of_samples.x, torch.ones(2, 1, 4, 4), atol=1e-4, rtol=0)
    assert of_samples.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("held", "options", "said"),
    [
        ({"x": X}, {}, "add --time"),
        ({"x": X, "t": T}, {"time": 0.5}, "leave --time out"),
        ({"x": X, "t": T[:2]}, {}, "expected one time or 3"),
        ({"x": X}, {"time": 0.0}, "expected time to be a finite number above 0 and at most 1"),
        ({"x": X, "t": T + 1}, {}, "expected time to be"),
        ({"x": X[:, :1], "t": T}, {}, r"expected states of the teacher's own space.*\[S, 2\]"),
        ({"x": X / 0, "t": T}, {}, "not finite"),
        ({"x": X, "x0": X}, {"time": 0.5}, "holds x, x0: expected a picture"),
        ({"y": X}, {"time": 0.5}, "holds y: expected"),
        ({"x": X, "t": T, "labels": torch.tensor([0, 1, 2])}, {}, r"expected classes in 0 \.\. 1"),
        ({"x": X, "t": T, "labels": T}, {}, "integer labels"),
        ({"x": X, "t": T, "labels": T.long()}, {"classes": (1,)}, "leave --classes out"),
    ],
)
def test_files_that_are_no_noised_states_are_refused(held, options, said):
    np.savez("given.npz", **{name: value.numpy() for name, value in held.items()})
    with pytest.raises(ValueError, match=said):
        read_states(Path("given.npz"), PLANE, **options)


@pytest.mark.parametrize("name", ["cut.npz", "empty.npy", "words.pt", "code.pt"])
def test_a_damaged_file_of_states_is_refused_in_a_line(name):
    np.savez("whole.npz", x=X.numpy(), t=T.numpy())
    whole = Path("whole.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    Path("empty.npy").touch()
    Path("words.pt").write_text("no tensors")
    torch.save({"x0": Path("x")}, "code.pt")
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(\w+\): expected a picture"):
        read_states(Path(name), PLANE, 0.5)


def test_what_cannot_draw_a_posterior_is_refused(freeflow, checkpoint):
    np.savez("given.npz", x=np.zeros((1, 3, 4, 4), np.float32), t=0.5)
    Path("text.png").write_text("no picture")
    given = ["--posterior", "given.npz"]
    for words, said in [
        (given, "expected who draws: a checkpoint for its student, or --teacher CLASS"),
        ([*TEACHER, "--time", 0.5], "add --posterior FILE"),
        ([*TEACHER, "--posterior", "text.png", "--time", 0.5], "text.png cannot be read"),
        ([*TEACHER, "--posterior", "none.npz"], "no file of states at none.npz"),
        ([*TEACHER, "--sampler", "renoise"], "without a checkpoint there is no student"),
        ([checkpoint, *given, "--classes", 1], "that PosteriorModule has trained"),
        ([checkpoint, *given], "say those of the states with --classes"),
        ([checkpoint, *given, "--teacher", "--sampler", "chain"], "do not change posterior draws"),
    ]:
        code, _, err = freeflow("sample", *words)
        assert code == 1, words
        assert said in err
    words = ["sample", checkpoint, *given, "--teacher", "--steps", 2, "--num_samples", 2]
    code, _, err = freeflow(*words, "--output", "ok")
    assert code == 0, err
    assert {path.name for path in Path("ok").iterdir()} >= {"000001.png", "states.npz"}
    with pytest.warns(UserWarning, match="of no posterior"):
        TeacherPosterior(PLANE, guidance=2.0)


def test_a_teacher_alone_draws_samples_too(freeflow):
    code, _, err = freeflow("sample", *TEACHER, "--num_samples", 8, "--output", "s")
    assert code == 0, err
    assert drawn("s").shape == (8, 2)


def test_draws_of_a_state_are_a_function_of_seed_and_index_alone():
    states = NoisedStates(X, T, seed=5)
    index = torch.arange(9)
    e, seen = states.noise(PLANE, index)
    part, (_, x_of_part, _) = states.noise(PLANE, index[4:6])
    condition, x, _ = seen
    assert torch.equal(e[4:6], part)
    assert torch.equal(x[4:6], x_of_part)
    assert torch.equal(x[4], X[1])
    assert condition.tolist() == [2] * 9  # the null class
    assert len({tuple(row.tolist()) for row in e}) == 9
