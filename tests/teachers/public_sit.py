"""Tiny SiT weights in the layouts of public files, and the network written out from a state dict, apart from the package."""

import math

import torch
from torch import Tensor

WIDTH, HEADS, DEPTH, CLASSES, CHANNELS, PATCH, SIDE = 16, 2, 3, 5, 4, 2, 8


def state_dict(
    seed: int = 0,
    learn_sigma: bool = False,
    side: int = SIDE,
    size: float = 0.15,
    qk_norm: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Every tensor random, the position embedding too: a loader that computes it is caught.

    `qk_norm` names the tensors of the norms of queries and keys: weight and bias (REPA), weight, or scale (DMF).
    """
    rows, tokens = PATCH**2 * CHANNELS * (2 if learn_sigma else 1), (side // PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, WIDTH),
        "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (WIDTH,),
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
        "final_layer.linear.weight": (rows, WIDTH),
        "final_layer.linear.bias": (rows,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
    }
    for i in range(DEPTH):
        for name, out, into in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
            ("adaLN_modulation.1", 6 * WIDTH, WIDTH),
        ):
            shapes |= {f"blocks.{i}.{name}.weight": (out, into), f"blocks.{i}.{name}.bias": (out,)}
        shapes |= {
            f"blocks.{i}.attn.{x}_norm.{part}": (WIDTH // HEADS,) for x in "qk" for part in qk_norm
        }
    g = torch.Generator().manual_seed(seed)
    return {key: size * torch.randn(shape, generator=g) for key, shape in shapes.items()}


def projectors(seed: int = 9) -> dict[str, Tensor]:
    """REPA's projector, which training alone uses."""
    g = torch.Generator().manual_seed(seed)
    shapes = {0: (32, WIDTH), 2: (32, 32), 4: (24, 32)}
    return {
        f"projectors.0.{i}.weight": torch.randn(shape, generator=g) for i, shape in shapes.items()
    } | {
        f"projectors.0.{i}.bias": torch.randn(shape[0], generator=g) for i, shape in shapes.items()
    }


def embedded(w: dict[str, Tensor], name: str, s: Tensor) -> Tensor:
    """A scalar through the sinusoid and the two-layer MLP `name`."""
    angle = s[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    h = (
        torch.cat([angle.cos(), angle.sin()], 1) @ w[f"{name}.mlp.0.weight"].T
        + w[f"{name}.mlp.0.bias"]
    )
    return (h * h.sigmoid()) @ w[f"{name}.mlp.2.weight"].T + w[f"{name}.mlp.2.bias"]


def network(
    w: dict[str, Tensor], x: Tensor, t: Tensor, y: Tensor, extra: Tensor | float = 0.0
) -> Tensor:
    """SiT's forward in its own convention, [B, C, H, W]; of the channels of a learned variance the first C.

    `extra` is added to the conditioning vector.
    """
    linear = lambda h, name: h @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    silu = lambda h: h * torch.sigmoid(h)
    norm = lambda h: (
        (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    )
    n, side = len(x), x.shape[-1] // PATCH
    patches = (
        x.unfold(2, PATCH, PATCH)
        .unfold(3, PATCH, PATCH)
        .permute(0, 2, 3, 1, 4, 5)
        .reshape(n, side**2, -1)
    )
    h = (
        patches @ w["x_embedder.proj.weight"].flatten(1).T
        + w["x_embedder.proj.bias"]
        + w["pos_embed"]
    )
    c = embedded(w, "t_embedder", t) + w["y_embedder.embedding_table.weight"][y] + extra
    for i in range(DEPTH):
        m = linear(silu(c), f"blocks.{i}.adaLN_modulation.1")[:, None].chunk(6, -1)
        qkv = linear(norm(h) * (1 + m[1]) + m[0], f"blocks.{i}.attn.qkv")
        q, k, v = qkv.view(n, side**2, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        q, k = (
            normalised(w, f"blocks.{i}.attn.{name}_norm", h) for name, h in (("q", q), ("k", k))
        )
        attended = (
            ((q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v)
            .transpose(1, 2)
            .reshape(n, side**2, WIDTH)
        )
        h = h + m[2] * linear(attended, f"blocks.{i}.attn.proj")
        hidden = linear(norm(h) * (1 + m[4]) + m[3], f"blocks.{i}.mlp.fc1")
        h = h + m[5] * linear(
            torch.nn.functional.gelu(hidden, approximate="tanh"), f"blocks.{i}.mlp.fc2"
        )
    shift, scale = linear(silu(c), "final_layer.adaLN_modulation.1")[:, None].chunk(2, -1)
    out = linear(norm(h) * (1 + scale) + shift, "final_layer.linear")
    channels = out.shape[-1] // PATCH**2
    image = torch.einsum("nhwpqc->nchpwq", out.view(n, side, side, PATCH, PATCH, channels)).reshape(
        n, channels, *x.shape[2:]
    )
    return image.chunk(2, dim=1)[0] if channels == 2 * CHANNELS else image


def normalised(w: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    """Queries or keys through their norm, if they have one: LayerNorm (eps 1e-5) where it has a bias, else RMS (1e-6)."""
    weight = w.get(f"{name}.weight", w.get(f"{name}.scale"))
    if weight is None:
        return h
    if f"{name}.bias" not in w:
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    centred = h - h.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        + w[f"{name}.bias"]
    )


def inputs(n: int = 4, side: int = SIDE) -> tuple[Tensor, Tensor, Tensor]:
    """States, times and labels, the null class among them."""
    g = torch.Generator().manual_seed(3)
    y = torch.randint(CLASSES, (n,), generator=g)
    y[-1] = CLASSES
    return torch.randn(n, CHANNELS, side, side, generator=g), torch.rand(n, generator=g), y
