"""Noised states that posterior draws start from, read from a file, with their times and classes."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freeflow_lightning.flow import check_numbers, renoise
from freeflow_lightning.metrics import from_uint8
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.sample_files import read_picture
from freeflow_lightning.teachers import Teacher

FORMS = (
    "expected a picture, which --time noises; an .npz or .pt of states `x` [S, ...] and their "
    "times `t`, or of clean samples `x0` [S, ...] (or `arr_0`, as freeflow sample --npz writes "
    "them) for --time; or an .npy or .pt of states alone, with --time"
)


Observed = tuple[Any, Tensor, Tensor]
"""What B posterior draws are conditioned on: the teacher's condition, the noised states x
[B, *sample_shape], and their times t in (0, 1], [B].
"""


@dataclass(frozen=True)
class NoisedStates:
    """S states x_t, and the draws of p(x0 | x_t) in turn: sample i is draw i // S of state i % S.

    Args:
        x: the states, float32 [S, *sample_shape].
        t: their times in (0, 1], float32 [S].
        seed: sample i is a function of (seed, i) and its state alone.
        labels: the class of each state, int64 [S]; None for draws without a class.
    """

    x: Tensor
    t: Tensor
    seed: int = 0
    labels: Tensor | None = None

    def noise(
        self, teacher: Teacher, index: Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Observed]:
        """Inner noise [B, *sample_shape] of the samples with the given indices [B], and their
        states.
        """
        row = index % len(self.x)
        draw = Draw(self.seed, stream="posterior")
        e, condition = draw.noise(teacher, index, device)
        if self.labels is not None:
            condition = teacher.conditions.of_classes(self.labels[row].to(device))
        elif condition is not None:
            condition = teacher.null_condition(condition)
        return e, (condition, self.x[row].to(device), self.t[row].to(device))

    def facts(self) -> dict[str, Any]:
        """Return what tells these samples from others of the same sampler, as JSON."""
        digest = hashlib.sha256(self.x.numpy().tobytes() + self.t.numpy().tobytes())
        return {
            "seed": self.seed,
            "states": digest.hexdigest()[:16],
            "number of states": len(self.x),
            "classes": "none" if self.labels is None else self.labels.tolist(),
        }

    def to_npz(self) -> bytes:
        """Return an .npz of `x` and `t`, and `labels` if there are any, which `read_states`
        reads.
        """
        arrays: dict[str, Any] = {"x": self.x.numpy(), "t": self.t.numpy()}
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        written = io.BytesIO()
        np.savez(written, **arrays)
        return written.getvalue()


def read_states(
    path: Path,
    teacher: Teacher,
    time: float | None = None,
    *,
    seed: int = 0,
    classes: tuple[int, ...] | None = None,
) -> NoisedStates:
    """Return the noised states of a file; clean samples are noised to a time, each by its index.

    Args:
        path: of one of the `FORMS`. Nothing in it is executed.
        teacher: whose shape and classes they have.
        time: in (0, 1]; for states whose file does not say it.
        seed: of the noise that clean samples get, and of the draws.
        classes: of the states, in turn, where the file has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another content, shape or time.
    """
    arrays = _read_arrays(path)
    clean = "x0" in arrays or "arr_0" in arrays
    if clean == ("x" in arrays):
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}: {FORMS}")
    given = arrays.get("x", arrays.get("x0"))
    if given is None:
        given = _of_pictures(arrays["arr_0"])
    x = _fit(given, teacher, path)
    t = _times(arrays.get("t"), time, len(x), path)
    if clean:
        n, _ = teacher.draw_indexed(torch.arange(len(x)), seed=seed, stream="posterior/state")
        x = renoise(x, n, t)
    labels = arrays.get("labels", arrays.get("arr_1"))
    return NoisedStates(x, t, seed, _labels(labels, classes, teacher, len(x), path))


def _read_arrays(path: Path) -> Mapping[str, Tensor]:
    """Return the named tensors of a file; `x` where it holds one without a name, `x0` of a
    picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of states at {path}: {FORMS}")
    try:
        return READERS.get(path.suffix, _read_picture)(path)
    except Exception as error:  # damaged bytes have no common error
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): {FORMS}") from error


def _read_npz(path: Path) -> Mapping[str, Tensor]:
    with np.load(path) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def _read_npy(path: Path) -> Mapping[str, Tensor]:
    return {"x": torch.from_numpy(np.load(path))}


def _read_pt(path: Path) -> Mapping[str, Tensor]:
    held = torch.load(path, weights_only=True)
    named = held if isinstance(held, dict) else {"x": held}
    return {name: torch.as_tensor(value) for name, value in named.items()}


def _read_picture(path: Path) -> Mapping[str, Tensor]:
    return {"arr_0": read_picture(path).permute(1, 2, 0)[None]}


READERS = {".npz": _read_npz, ".npy": _read_npy, ".pt": _read_pt}
"""By the ending of a file of states; any other file is a picture."""


def _of_pictures(pictures: Tensor) -> Tensor:
    """Samples as freeflow sample writes them, to states: pictures uint8 [S, H, W, C] or [S, H,
    W].
    """
    if pictures.dtype != torch.uint8:
        return pictures
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    return from_uint8(pictures.permute(0, 3, 1, 2).contiguous())


def _fit(x: Tensor, teacher: Teacher, path: Path) -> Tensor:
    """States float32 [S, *sample_shape], S at least 1."""
    shape = tuple(teacher.sample_shape)
    if tuple(x.shape) == shape:
        x = x[None]
    if x.shape[1:] != shape or not len(x) or not x.is_floating_point():
        raise ValueError(
            f"{path} holds {x.dtype} of shape {list(x.shape)}; expected states of the teacher's "
            f"own space, floating point [S, {str(list(shape))[1:]}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{path} holds numbers that are not finite")
    return x.float()


def _times(held: Tensor | None, time: float | None, count: int, path: Path) -> Tensor:
    """Times float32 [S] in (0, 1]: those of the file, or the given one for all."""
    if held is not None and time is not None:
        raise ValueError(f"{path} says the times of its states: leave --time out")
    if held is None and time is None:
        raise ValueError(f"{path} does not say the time of its states: add --time, in (0, 1]")
    t = torch.as_tensor(time if held is None else held).float()
    if t.ndim > 1 or t.numel() not in (1, count):
        raise ValueError(f"expected one time or {count} in {path}, got shape {list(t.shape)}")
    for value in t.flatten().tolist():
        check_numbers(0, 1, without_low=True, time=value)
    return t.flatten().expand(count).clone()


def _labels(
    held: Tensor | None, classes: tuple[int, ...] | None, teacher: Teacher, count: int, path: Path
) -> Tensor | None:
    """Return the class of each state, int64 [S]; None without any."""
    if held is not None and classes is not None:
        raise ValueError(f"{path} says the classes of its states: leave --classes out")
    if classes is not None:
        held = torch.tensor(classes)[torch.arange(count) % len(classes)]
    if held is None:
        return None
    if not teacher.num_classes:
        raise ValueError("these states have classes, and the teacher has none: leave them out")
    if held.shape != (count,) or held.is_floating_point():
        raise ValueError(f"expected {count} integer labels in {path}, got {list(held.shape)}")
    teacher.conditions.of_classes(held.long())
    return held.long()
