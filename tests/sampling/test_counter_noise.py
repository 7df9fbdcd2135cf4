import json
import math

import numpy as np
import pytest
import torch

from freeflow_lightning.sampling.counter_noise import counter_noise, counter_uniforms, counter_words
from freeflow_lightning.sampling.draw import Draw
from tiny import mixture

SHAPES = [(2,), (1, 8, 8)]


def test_a_row_is_a_function_of_seed_stream_and_index_alone():
    for shape in [*SHAPES, (3,), (7, 5)]:
        whole = counter_noise(torch.arange(20), shape, seed=3)
        assert whole.dtype == torch.float32
        rows = torch.tensor([7, 2, 3, 4, 19, 7])
        assert torch.equal(counter_noise(rows, shape, seed=3), whole[rows])
        parts = [counter_noise(torch.arange(a, b), shape, seed=3) for a, b in [(0, 1), (1, 20)]]
        assert torch.equal(torch.cat(parts), whole)
        for other in ({"seed": 4}, {"seed": 3, "stream": "floor"}):
            assert not (counter_noise(torch.arange(20), shape, **other) == whole).any()
    far = counter_noise(torch.tensor([2**60]), (4,), seed=0)
    assert torch.equal(far, counter_noise(torch.tensor([1, 2**60]), (4,), seed=0)[1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_standard_normal_and_neighbours_are_uncorrelated(shape):
    x = counter_noise(torch.arange(5000), shape, seed=0).double().flatten(1)
    n = x.numel()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((x**power).mean() - moment) < 5 * math.sqrt(variance / n), power
    for lag in (1, 2, 256):
        assert (x[:-lag].T @ x[lag:] / (5000 - lag)).abs().max() < 6 / math.sqrt(5000 - lag)
    inside = torch.corrcoef(x.T) - torch.eye(x.shape[1])
    assert inside.abs().max() < 6 / math.sqrt(5000)


def test_the_words_are_those_of_philox_counted_from_the_samples_own_block():
    """Salmon et al.: four words for each value of a counter; a sample of six words owns two values."""
    words = counter_words(torch.tensor([5]), 6, seed=0, stream="samples")
    assert words[0, 0] == np.uint64(1455745332865643135)  # for good: files depend on it
    again = counter_words(torch.tensor([10, 11]), 4, seed=0, stream="samples").reshape(-1)
    assert (words[0] == again[:6]).all()


def test_classes_are_uniform_and_both_versions_stay_what_they_are():
    u = counter_uniforms(torch.arange(4000), seed=1, stream="a")
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * 4000)
    assert float(u.max()) < 1
    teacher, index = mixture(), torch.arange(2000)
    z, y = Draw(7, version="v2").noise(teacher, index)
    assert torch.equal(z, counter_noise(index, (2,), seed=7))
    assert abs(y.double().mean() - 0.5) < 5 / math.sqrt(4 * 2000)
    assert torch.equal(Draw(7, version="v2").noise(teacher, index[5:9])[1], y[5:9])
    old, classes = teacher.draw_indexed(index, seed=7, stream="samples")
    assert torch.equal(Draw(7).noise(teacher, index)[0], old)
    assert torch.equal(Draw(7).noise(teacher, index)[1], classes)
    given = Draw(7, (1, 0), version="v2").noise(teacher, index)
    assert torch.equal(given[0], z)
    assert given[1][:4].tolist() == [1, 0, 1, 0]


def test_a_folder_says_how_its_noise_was_drawn_and_is_not_mixed(freeflow, checkpoint, tmp_path):
    words = [
        "sample",
        checkpoint,
        "--num_samples",
        8,
        "--output",
        tmp_path / "a",
        "--device",
        "cpu",
    ]
    assert freeflow(*words, "--noise", "v2")[0] == 0
    note = json.loads((tmp_path / "a/samples.json").read_text())
    assert note["noise"] == "v2"
    code, _, told = freeflow(*words, "--noise", "v1")
    assert (code, "samples of another noise" in told) == (1, True)
    assert freeflow(*words, "--overwrite")[0] == 0
    assert "noise" not in json.loads((tmp_path / "a/samples.json").read_text())
