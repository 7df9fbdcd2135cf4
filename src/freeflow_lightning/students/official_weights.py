"""The official FreeFlow students: their files as ScalarConditioned networks in the paper's
convention.

Their code could not be read when this was written, so that names and conventions are options;
"auto" measures, and says so.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from freeflow_lightning.nets import ScalarConditioned, ScalarEmbedder, SiT
from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.students.official_convention import (
    OfficialConvention,
    Scalar,
    decide_convention,
)
from freeflow_lightning.students.student import Student
from freeflow_lightning.teachers import Convention, LatentDecoder, LatentSpace, SiTVelocity
from freeflow_lightning.teachers.reading.say import say
from freeflow_lightning.teachers.reading.sit_architecture import size_name
from freeflow_lightning.teachers.reading.sit_files import build_sit, read_sit
from freeflow_lightning.teachers.reading.weights import read_file

VAE = "stabilityai/sd-vae-ft-ema"
"""What decodes the authors' latents."""
NAMES = {
    "delta": re.compile(r"delta|^dt|^d_|jump|dur|step|^r_|^s_|^h_"),
    "gamma": re.compile(r"gamma|gw|guid|cfg|omega|^w_|^g_"),
}
"""Input of a student: what the name of its embedder looks like. diffuse_nnx, by an author of the
paper, has dt and gw.
"""
PARTS = ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")


def read_official(
    path: str | Path,
    convention: OfficialConvention,
    *,
    vae: str | LatentDecoder | None = VAE,
    guidance_range: tuple[float, float] = (1.0, 2.0),
    num_heads: int | None = None,
    input_size: int | None = None,
) -> Student:
    """Read a student from the authors' weights; the arguments are those of `FlowMap.from_official`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, embedders that are not recognised, or an "auto" that the
            samples do not decide.
    """
    network = read_official_network(path, convention, num_heads=num_heads, input_size=input_size)
    net = network.get_submodule("backbone.net")
    assert isinstance(net, SiT)
    decoder = LatentDecoder(vae) if isinstance(vae, str) else vae
    space = LatentSpace(net.sample_shape, net.num_classes, decoder)
    return Student(network, space, guidance_range, {"average": "official weights"})


def is_foreign(path: str | Path) -> bool:
    """Return whether a file of weights was saved by other code than Lightning; not so of a file
    that cannot be read.
    """
    try:
        content = read_file(path)
    except (ValueError, FileNotFoundError):
        return False
    return not (isinstance(content, dict) and "pytorch-lightning_version" in content)


def read_official_network(
    path: str | Path,
    convention: OfficialConvention,
    *,
    num_heads: int | None = None,
    input_size: int | None = None,
) -> ScalarConditioned:
    """Return the student of an official file, ready to be called at t = 1 with delta and gamma.

    Says which weights and embedders it took, what it left out, and the figures that decided an
    "auto".

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, embedders that are not recognised, or an "auto" that the
            samples do not decide.
    """
    read = read_sit(
        path, num_heads=num_heads, input_size=input_size, weights_key=convention.weights_key
    )
    chosen = embedders(read.extra, read.architecture["hidden_size"], convention.rename, path)
    weights = {
        scalar: {part: read.extra[f"{prefix}.{part}"] for part in PARTS}
        for scalar, prefix in chosen.items()
    }
    if bad := [
        chosen[scalar]
        for scalar in weights
        if not all(bool(w.isfinite().all()) for w in weights[scalar].values())
    ]:
        raise ValueError(f"{path} has NaN or infinite values in {', '.join(bad)}")
    net = build_sit(read)
    student = ScalarConditioned(SiTVelocity(net), ("delta", "gamma"))
    scales: dict[Scalar, float] = {"delta": convention.delta_scale, "gamma": convention.gamma_scale}
    for scalar, scale in scales.items():
        embedder = student.embedders[scalar]
        assert isinstance(embedder, ScalarEmbedder)
        embedder.scale = scale
        misfit = f"{path} does not fit its {scalar} embedder"
        load_weights(embedder, weights[scalar], misfit)
    student.eval().requires_grad_(False)
    time, sign, why = decide_convention(student, convention, path)
    assert isinstance(student.backbone, SiTVelocity)
    student.backbone.convention = Convention(time, sign)
    names = f"delta from {chosen['delta']!r}, gamma from {chosen['gamma']!r}"
    parameters = sum(p.numel() for p in student.parameters())
    about = f"official student, {size_name(read.architecture)}, {parameters:,} parameters"
    say(f"{path}: " + "; ".join([about, *read.notes, names, why]))
    return student


def embedders(
    extra: Mapping[str, Tensor], width: int, rename: Mapping[str, str], path: str | Path
) -> dict[Scalar, str]:
    """Return which of the tensors that no SiT has embed delta and gamma: scalar to prefix, nothing
    left over.
    """
    shapes = dict(zip(PARTS, [(width, 256), (width,), (width, width), (width,)], strict=True))
    prefixes = [key.removesuffix(".mlp.0.weight") for key in extra if key.endswith(".mlp.0.weight")]
    fitting = [
        prefix
        for prefix in prefixes
        if all(
            f"{prefix}.{part}" in extra and extra[f"{prefix}.{part}"].shape == shape
            for part, shape in shapes.items()
        )
    ]
    if unknown := rename.keys() - set(fitting):
        raise ValueError(f"{path} has no embedder {sorted(unknown)}: rename one of {fitting}")
    found = {
        prefix: [rename[prefix]]
        if prefix in rename
        else [name for name, pattern in NAMES.items() if pattern.search(prefix)]
        for prefix in fitting
    }
    delta, gamma = (
        [prefix for prefix, names in found.items() if names == [scalar]]
        for scalar in ("delta", "gamma")
    )
    left = [
        key
        for key in extra
        if not any(key == f"{prefix}.{part}" for prefix in delta + gamma for part in PARTS)
    ]
    if len(delta) != 1 or len(gamma) != 1 or left:
        raise ValueError(
            f"{path} is not recognised as a FreeFlow student, a SiT with one embedder each of "
            f"delta and gamma: found {delta} for delta, {gamma} for gamma and other tensors "
            f"{sorted(left)[:8]}. Name embedders with rename, for example "
            f"{{{(fitting or ['foo_embedder'])[0]!r}: 'delta'}}"
        )
    return {"delta": delta[0], "gamma": gamma[0]}
