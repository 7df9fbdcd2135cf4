import pytest
import torch

from freeflow_lightning.flow import CentralDifference, ExactJVP
from freeflow_lightning.nets import SIZES, ScalarConditioned, SiT, sinusoid
from nets.random_weights import TINY, inputs, tiny_sit


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ("S", 32, 32_957_200),
        ("B", 32, 130_500_112),
        ("L", 32, 458_086_416),
        ("XL", 32, 675_111_184),
        ("S", 64, 33_252_112),
        ("B", 64, 131_089_936),
        ("L", 64, 458_872_848),
        ("XL", 64, 675_995_920),
    ],
)
def test_parameter_counts_are_the_published_ones(size, side, expected):
    assert count(lambda: SiT(input_size=side, **SIZES[size])) == expected


@pytest.mark.parametrize(
    ("size", "side", "student", "auxiliary"),
    [
        ("S", 32, 33_450_256, 33_203_728),
        ("B", 32, 132_076_048, 131_288_080),
        ("L", 32, 460_711_952, 459_399_184),
        ("XL", 32, 678_359_824, 676_735_504),
        ("S", 64, 33_745_168, 33_498_640),
        ("B", 64, 132_665_872, 131_877_904),
        ("L", 64, 461_498_384, 460_185_616),
        ("XL", 64, 679_244_560, 677_620_240),
    ],
)
def test_parameter_counts_of_student_and_auxiliary_are_the_papers(size, side, student, auxiliary):
    build = lambda *scalars: ScalarConditioned(SiT(input_size=side, **SIZES[size]), scalars)
    assert count(lambda: build("delta", "gamma")) == student
    assert count(lambda: build("gamma")) == auxiliary


BLOCK = {
    "attn.qkv.weight": (3456, 1152),
    "attn.qkv.bias": (3456,),
    "attn.proj.weight": (1152, 1152),
    "attn.proj.bias": (1152,),
    "mlp.fc1.weight": (4608, 1152),
    "mlp.fc1.bias": (4608,),
    "mlp.fc2.weight": (1152, 4608),
    "mlp.fc2.bias": (1152,),
    "adaLN_modulation.1.weight": (6912, 1152),
    "adaLN_modulation.1.bias": (6912,),
}
REST = {
    "pos_embed": (1, 256, 1152),
    "x_embedder.proj.weight": (1152, 4, 2, 2),
    "x_embedder.proj.bias": (1152,),
    "t_embedder.mlp.0.weight": (1152, 256),
    "t_embedder.mlp.0.bias": (1152,),
    "t_embedder.mlp.2.weight": (1152, 1152),
    "t_embedder.mlp.2.bias": (1152,),
    "y_embedder.embedding_table.weight": (1001, 1152),
    "final_layer.linear.weight": (16, 1152),
    "final_layer.linear.bias": (16,),
    "final_layer.adaLN_modulation.1.weight": (2304, 1152),
    "final_layer.adaLN_modulation.1.bias": (2304,),
}


def test_keys_and_shapes_are_the_public_checkpoints():
    with torch.device("meta"):
        found = {key: tuple(value.shape) for key, value in SiT().state_dict().items()}
    blocks = {f"blocks.{i}.{key}": shape for i in range(28) for key, shape in BLOCK.items()}
    assert found == {**REST, **blocks}
    assert len(found) == 292


def test_a_new_network_answers_0():
    x, t, y = inputs()
    assert SiT(**TINY)(x, t, y).abs().max() == 0


def test_unpatchify_inverts_the_patches():
    """A patch embedding that copies each pixel, in the order row, column, channel of the patch."""
    p, channels = 2, 3
    net = SiT(
        input_size=6,
        patch_size=p,
        in_channels=channels,
        hidden_size=p * p * channels,
        depth=1,
        num_heads=1,
    )
    weight = torch.zeros_like(net.x_embedder.proj.weight)
    for i in range(p):
        for j in range(p):
            for c in range(channels):
                weight[(i * p + j) * channels + c, c, i, j] = 1
    net.x_embedder.proj.weight.data.copy_(weight)
    x = torch.randn(2, channels, 6, 6)
    torch.testing.assert_close(net.unpatchify(net.x_embedder(x)), x)


def test_pixels_time_and_class_all_matter():
    net, (x, t, y) = tiny_sit(), inputs()
    out = net(x, t, y)
    for changed in ((x + 0.1, t, y), (x, t + 0.1, y), (x, t, (y + 1) % 6)):
        assert ((net(*changed) - out).abs().amax((1, 2, 3)) > 1e-4).all()


def test_every_token_sees_every_other():
    net, (x, t, y) = tiny_sit(), inputs()
    moved = x.clone()
    moved[:, :, 0, 0] += 1
    change = (net(moved, t, y) - net(x, t, y)).abs()
    assert (change.amax((0, 1)) > 0).all()


def by_hand(net, x, t, y):
    """SiT written out from its state dict: patches, position, adaLN blocks of 2 heads, adaLN, patches."""
    w = net.state_dict()
    linear = lambda h, name: h @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    silu = lambda h: h * torch.sigmoid(h)
    norm = lambda h: (
        (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    )
    tokens = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 4, -1)
    h = (
        tokens @ w["x_embedder.proj.weight"].flatten(1).T
        + w["x_embedder.proj.bias"]
        + w["pos_embed"]
    )
    c = (
        linear(silu(linear(sinusoid(t, 256), "t_embedder.mlp.0")), "t_embedder.mlp.2")
        + w["y_embedder.embedding_table.weight"][y]
    )
    for i in range(len(net.blocks)):
        m = linear(silu(c), f"blocks.{i}.adaLN_modulation.1")[:, None].chunk(6, -1)
        q, k, v = (
            linear(norm(h) * (1 + m[1]) + m[0], f"blocks.{i}.attn.qkv")
            .view(len(x), 4, 3, 2, 8)
            .permute(2, 0, 3, 1, 4)
        )
        attended = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).reshape(len(x), 4, 16)
        h = h + m[2] * linear(attended, f"blocks.{i}.attn.proj")
        hidden = linear(norm(h) * (1 + m[4]) + m[3], f"blocks.{i}.mlp.fc1")
        h = h + m[5] * linear(
            torch.nn.functional.gelu(hidden, approximate="tanh"), f"blocks.{i}.mlp.fc2"
        )
    shift, scale = linear(silu(c), "final_layer.adaLN_modulation.1")[:, None].chunk(2, -1)
    out = linear(norm(h) * (1 + scale) + shift, "final_layer.linear")
    return out.view(len(x), 2, 2, 2, 2, 3).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def test_forward_is_sits_equations():
    net = tiny_sit().double()
    x, t, y = inputs(dtype=torch.float64)
    torch.testing.assert_close(net(x, t, y), by_hand(net, x, t, y), atol=1e-10, rtol=1e-10)


def test_pictures_of_another_shape_with_as_many_patches_are_refused():
    net = SiT(input_size=8, hidden_size=16, depth=1, num_heads=2, num_classes=0)
    with pytest.raises(
        ValueError, match=r"expected pictures of shape \[4, 8, 8\], got \[4, 4, 16\]"
    ):
        net(torch.zeros(1, 4, 4, 16), torch.zeros(1))


def test_an_unconditional_network_has_no_table():
    net, (x, t, _) = tiny_sit(num_classes=0), inputs()
    assert not any(key.startswith("y_embedder") for key in net.state_dict())
    assert net(x, t).shape == x.shape


def test_time_scale_multiplies_the_time():
    net, scaled, (x, t, y) = tiny_sit(), tiny_sit(time_scale=4.0), inputs()
    torch.testing.assert_close(scaled(x, t / 4, y), net(x, t, y))


def test_position_embedding_is_fixed():
    assert not tiny_sit().pos_embed.requires_grad


def test_an_unknown_norm_of_queries_is_refused():
    with pytest.raises(ValueError, match=r"expected qk_norm 'none', 'layer' or 'rms', got 'batch'"):
        SiT(**TINY, qk_norm="batch")


@pytest.mark.parametrize("changes", [{"input_size": 5}, {"num_heads": 3}])
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match="divide"):
        SiT(**{**TINY, **changes})


@pytest.mark.parametrize("qk_norm", ["none", "layer", "rms"])
def test_exact_derivative_passes_through_all_attention(qk_norm):
    net = ScalarConditioned(tiny_sit(qk_norm=qk_norm).double(), ("delta",))
    torch.nn.init.normal_(net.embedders["delta"].double().mlp[2].weight, std=0.5)
    x, t, y = inputs(dtype=torch.float64)
    F = lambda z, delta: net(z, torch.ones_like(delta), y, delta=delta)
    exact = ExactJVP()(F, x, t)
    assert exact.abs().max() > 1e-2
    torch.testing.assert_close(exact, CentralDifference(1e-5)(F, x, t), atol=1e-8, rtol=1e-7)


def test_exact_derivative_and_an_ordinary_gradient_coexist():
    net, (x, t, y) = ScalarConditioned(tiny_sit(), ("delta",)), inputs()
    F = lambda z, delta: net(z, torch.ones_like(delta), y, delta=delta)
    output = F(x, t)
    assert ExactJVP()(F, x, t).abs().max() == 0  # zero at initialisation, but there is a tangent
    output.sum().backward()
    assert net.embedders["delta"].mlp[2].weight.grad.abs().max() > 0


def test_bfloat16_autocast_stays_close():
    net, (x, t, y) = tiny_sit(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, t, y).float()
    full = net(x, t, y)
    assert (low - full).norm() < 0.05 * full.norm()
