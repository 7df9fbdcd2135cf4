"""Moments of the embedded teachers' samples that ship with the package, so that no one need draw
ten thousand samples before a first figure.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from freeflow_lightning.metrics import FeatureNetwork, FeatureTable
from freeflow_lightning.sampling.hashes import class_name, probe, weights_hash
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.digests import key_of

FOLDER = Path(str(files("freeflow_lightning") / "assets" / "moments"))


def find_shipped(
    sampler: TeacherSampler,
    network: nn.Module,
    *,
    count: int,
    seed: int,
    stream: str,
    device: torch.device | str = "cpu",
) -> FeatureTable | None:
    """Return the moments of exactly these samples in these features; None where they do not ship.

    A file's name says all that they depend on and that is the same on every machine; what the
    teacher does with fixed points, which round-off changes, must agree to three digits.

    Args:
        sampler: whose samples.
        network: feature network.
        count: samples.
        seed: of their noise and classes.
        stream: "reference" or "floor".
        device: where the teacher is.
    """
    path = FOLDER / f"{_key(sampler, network, count, seed, stream)}.safetensors"
    if not path.is_file():
        return None
    tensors = load_file(path)
    shipped = tensors.pop("probe")
    here = probe(sampler.teacher, device, sampler.guidance)
    if here.shape != shipped.shape or not torch.allclose(here, shipped, rtol=1e-3, atol=1e-3):
        return None
    return FeatureTable.of_tensors(tensors)


def write_shipped(
    folder: Path,
    table: FeatureTable,
    sampler: TeacherSampler,
    network: nn.Module,
    *,
    seed: int,
    stream: str,
) -> Path:
    """Write a table's moments where `find_shipped` looks for them, given the package's folder."""
    key = _key(sampler, network, table.n, seed, stream)
    tensors: dict[str, Tensor] = table._replace(rows={}).tensors()
    tensors["probe"] = probe(sampler.teacher, "cpu", sampler.guidance)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / f"{key}.safetensors")
    return folder / f"{key}.safetensors"


def _key(sampler: TeacherSampler, network: nn.Module, count: int, seed: int, stream: str) -> str:
    teacher = sampler.teacher
    facts: dict[str, Any] = {
        "teacher": f"{class_name(teacher)} {weights_hash(teacher)}",
        "sampler": sampler.settings(),
        "features": feature_facts(network),
    }
    return key_of(facts | {"count": count, "seed": seed, "stream": stream})


def feature_facts(network: nn.Module) -> dict[str, str]:
    """Return what a feature network is: class, weights' hash, version of the library behind it."""
    version = network.version if isinstance(network, FeatureNetwork) else ""
    return {"class": class_name(network), "weights": weights_hash(network), "version": version}
