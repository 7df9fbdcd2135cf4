"""Given reference statistics: ADM's .npz (mu, sigma, mu_s, sigma_s, arr_0), torch-fidelity's .pt,
sets of pictures.
"""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from freeflow_lightning.metrics.moments import Moments
from freeflow_lightning.metrics.table import FeatureTable, TableBuilder, merge_tables

EXPECTED = "expected ADM's .npz (mu, sigma; arr_0), torch-fidelity's .pt (mu, sigma) or an .npz of pictures (arr_0)"


def read_statistics(
    path: str | Path,
    network: nn.Module,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> FeatureTable:
    """Return a reference table from a file, for samples that the same network sees.

    Moments are taken from the file where it has them, and from its pictures (arr_0, uint8 [N, H, W,
    C]) otherwise; the pictures are what precision, recall and KID compare with.

    Args:
        path: the file. Nothing in it is executed.
        network: on `device`; makes the features of the pictures.
        device: where the pictures go.
        batch_size: pictures at once.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, moments of another width, or moments that are no
            covariance.
    """
    content = _read(Path(path))
    table = FeatureTable(0, {}, {})
    if "arr_0" in content:
        table = _see_pictures(content, path, network, device, batch_size)
    names = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
    moments = {
        name: _moments(content, keys, path) for name, keys in names.items() if keys[0] in content
    }
    d = network.num_features
    if "features" in moments and moments["features"].mean.shape != (d,):
        raise ValueError(
            f"{path} holds the statistics of {len(moments['features'].mean)} features, and this "
            f"feature network has {d}: choose the network that made the file (2048 is "
            "Inception's: --features inception)"
        )
    return table._replace(moments=table.moments | moments)


def _see_pictures(
    content: dict[str, Any],
    path: str | Path,
    network: nn.Module,
    device: torch.device | str,
    batch_size: int,
) -> FeatureTable:
    """Return the table of a file's pictures, arr_0, and of their classes, arr_1, where it has
    them.
    """
    pictures, labels = content["arr_0"], content.get("arr_1")
    n = len(pictures)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or n < 2:
        raise ValueError(
            f"expected pictures uint8 [N, H, W, C] in arr_0 of {path}, got {pictures.dtype} "
            f"{pictures.shape}"
        )
    if labels is not None and (labels.shape != (n,) or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"expected one class for each picture in arr_1 of {path}, got {labels.dtype} "
            f"{labels.shape}"
        )
    return see_pictures(
        torch.from_numpy(pictures).permute(0, 3, 1, 2),
        None if labels is None else torch.from_numpy(labels),
        network,
        device=device,
        batch_size=batch_size,
    )


def see_pictures(
    pictures: Tensor,
    labels: Tensor | None,
    network: nn.Module,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> FeatureTable:
    """Return the table of pictures, all of whose features are kept.

    Args:
        pictures: uint8 [N, C, H, W].
        labels: their classes, integers [N]; None where they have none.
        network: on `device`; makes the features.
        device: where the pictures go.
        batch_size: pictures at once.
    """
    builder = TableBuilder(network, kept=len(pictures))
    for index in torch.arange(len(pictures)).split(batch_size):
        classes = None if labels is None else labels[index]
        builder.add(index, pictures[index].to(device), classes)
    return merge_tables([builder.part()])


def _moments(content: dict[str, Any], keys: tuple[str, str], path: str | Path) -> Moments:
    mean, covariance = (torch.from_numpy(np.asarray(content[key])).double() for key in keys)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"expected {keys[0]} [d] and {keys[1]} [d, d] in {path}, got {list(mean.shape)} and "
            f"{list(covariance.shape)}"
        )
    if not bool(torch.isfinite(mean).all()):
        broken = int((~torch.isfinite(mean)).sum())
        raise ValueError(
            f"{keys[0]} of {path} is no mean: {broken} of its {len(mean)} numbers are NaN or "
            "infinite; compute the statistics again"
        )
    if not bool(torch.isfinite(covariance).all()) or not torch.allclose(
        covariance, covariance.mT, rtol=1e-3, atol=1e-6
    ):
        raise ValueError(f"{keys[1]} of {path} is no covariance: it is not symmetric and finite")
    return Moments(mean, covariance)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no statistics at {path}: {EXPECTED}")
    try:
        content = _read_numpy(path) if path.suffix == ".npz" else _read_torch(path)
    except (
        BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{path} cannot be read: {EXPECTED} ({str(error).splitlines()[0]})"
        ) from error
    if not ({"mu", "sigma"} <= content.keys() or "arr_0" in content):
        raise ValueError(f"{path} holds {sorted(content)}: {EXPECTED}")
    return content


def _read_numpy(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {
            name: file[name]
            for name in ("mu", "sigma", "mu_s", "sigma_s", "arr_0", "arr_1")
            if name in file
        } or dict.fromkeys(file)


def _read_torch(path: Path) -> dict[str, Any]:
    """torch-fidelity's cache entry: numpy arrays in a pickle, of which arrays alone are let in."""
    rebuild = np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # what every pickled array names
    arrays = [rebuild, np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    with torch.serialization.safe_globals(arrays):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, no dictionary")
    return {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in content.items()
    }
