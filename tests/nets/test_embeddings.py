import math

import pytest
import torch

from freeflow_lightning.nets import LabelEmbedder, ScalarEmbedder, position_table, sinusoid


def test_sinusoid_is_dits_frequency_embedding():
    size, s = 6, [0.0, 0.3, 1.0, 875.0]
    rows = [
        [wave(value * 10_000 ** (-k / 3)) for wave in (math.cos, math.sin) for k in range(3)]
        for value in s
    ]
    table = sinusoid(torch.tensor(s, dtype=torch.float64), size)
    torch.testing.assert_close(table, torch.tensor(rows, dtype=torch.float64))


def test_sinusoid_is_float32_under_autocast():
    delta = torch.tensor([0.997, 0.9961])
    expected = sinusoid(1000 * delta, 256)
    with torch.autocast("cpu", torch.bfloat16):
        under = sinusoid(1000 * delta, 256)
    assert under.dtype == torch.float32
    assert torch.equal(under, expected)
    assert (expected[0] - expected[1]).abs().max() > 0.5  # bfloat16 would make both rows 0.9961


def test_sinusoid_of_a_bfloat16_scalar_is_float32():
    assert sinusoid(torch.ones(1, dtype=torch.bfloat16), 8).dtype == torch.float32


def test_scalar_embedder_is_a_two_layer_silu_mlp_on_the_scaled_sinusoid():
    embedder, s = ScalarEmbedder(8, frequencies=6, scale=1000.0), torch.rand(3)
    first, last = embedder.mlp[0], embedder.mlp[2]
    h = sinusoid(1000 * s, 6) @ first.weight.T + first.bias
    torch.testing.assert_close(embedder(s), (h * torch.sigmoid(h)) @ last.weight.T + last.bias)


def test_scalar_embedder_follows_its_weights_dtype():
    assert ScalarEmbedder(8).double()(torch.rand(2)).dtype == torch.float64


def test_zero_output_zeroes_the_last_layer_alone():
    embedder = ScalarEmbedder(8).zero_output()
    assert torch.equal(embedder(torch.rand(5)), torch.zeros(5, 8))
    assert embedder.mlp[0].weight.std() > 0.01


def test_null_class_is_the_row_after_the_last_class():
    embedder = LabelEmbedder(3, 4)
    assert embedder(torch.tensor([0, 3])).shape == (2, 4)
    assert torch.equal(embedder(torch.tensor([3]))[0], embedder.embedding_table.weight[3])
    with pytest.raises(IndexError):
        embedder(torch.tensor([4]))


def test_labels_are_never_dropped_in_training():
    embedder = LabelEmbedder(3, 4).train()
    labels = torch.arange(3).repeat(100)
    assert torch.equal(embedder(labels), embedder.embedding_table.weight[labels])


def test_position_table_is_maes():
    """Loops of one's own: the first half of the channels is the column, the second the row; sines before cosines."""
    d, side = 8, 3
    table = torch.zeros(side * side, d, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            for half, place in enumerate((column, row)):
                for k in range(d // 4):
                    angle = place / 10_000 ** (k / (d // 4))
                    table[row * side + column, half * d // 2 + k] = math.sin(angle)
                    table[row * side + column, half * d // 2 + d // 4 + k] = math.cos(angle)
    torch.testing.assert_close(position_table(d, side), table[None].float())


def test_position_table_has_the_published_shape():
    assert position_table(1152, 16).shape == (1, 256, 1152)
    assert position_table(1152, 32).shape == (1, 1024, 1152)
    with pytest.raises(ValueError, match="divisible by 4"):
        position_table(6, 2)
