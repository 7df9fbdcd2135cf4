"""A student in a fixed number of steps as a graph: torch.export (.pt2) and ONNX, each run again and
compared with the student.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import flow_map, take
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps

TOLERANCE = 1e-3
"""Largest difference from the student's samples, as a share of their largest value: other kernels
add up in another order.
"""


LARGEST_BATCH = (None, 63)
"""What is tried: any, or less than 64, where the upsampling in VAEs and UNets of diffusers takes
another path.
"""


class SampleGraph(nn.Module):
    """Noise to a sample in fixed steps and, with a decoder, to its picture.

    Args:
        network: the student.
        decoder: latents to pictures in [-1, 1]; None to end with the samples themselves.
        jumps: the steps.
    """

    def __init__(
        self, network: nn.Module, decoder: nn.Module | None = None, jumps: Jumps = ONE_STEP
    ) -> None:
        super().__init__()
        self.network = network
        self.decoder = decoder
        self.jumps = jumps

    def forward(
        self, z: Tensor, gamma: Tensor, condition: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        """z [B, ...], gamma [B], the condition, fresh noise [B, steps - 1, ...], to [B, ...]."""

        def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            F = self.network(x, t, condition, delta=t - s, gamma=gamma)
            return flow_map(x, F, t - s)

        x = self.jumps(f, z, None if noise is None else lambda k: noise[:, k])
        return x if self.decoder is None else self.decoder(x)


class VAE(nn.Module):
    """decode(latents / scale + shift) of a diffusers VAE as a graph can hold it.

    Args:
        vae: the VAE.
        scale: one number or one per channel, [C].
        shift: likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("scale", scale.view(-1, 1, 1) if scale.ndim else scale)
        self.register_buffer("shift", shift.view(-1, 1, 1) if shift.ndim else shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.vae.decode(x / self.scale + self.shift, return_dict=False)[0]


class Example(NamedTuple):
    """Inputs to trace and to check with: noise [B, ...], gamma [B], condition (labels [B], tensors
    by name, None), and the fresh noise [B, steps - 1, ...] of samplers that take any.
    """

    z: Tensor
    gamma: Tensor
    condition: Any
    noise: Tensor | None = None

    def first(self, n: int) -> "Example":
        """The first n rows."""
        noise = None if self.noise is None else self.noise[:n]
        return Example(self.z[:n], self.gamma[:n], take(self.condition, slice(0, n)), noise)

    def arguments(self) -> tuple[Any, ...]:
        """What the graph is called with."""
        return tuple(self) if self.noise is not None else tuple(self)[:-1]

    def inputs(self) -> dict[str, Tensor]:
        """The tensors by the names that they have in ONNX."""
        named = {"z": self.z, "gamma": self.gamma}
        if isinstance(self.condition, dict):
            named |= self.condition
        elif self.condition is not None:
            named["labels"] = self.condition
        if self.noise is not None:
            named["noise"] = self.noise
        return named


class Agreement(NamedTuple):
    """How a graph's samples agree with the student's: largest difference, and pixels that differ
    (by one level of 255).

    `largest_batch` is what the graph takes, None for any.
    """

    difference: float
    pixels: int
    different: int
    largest_batch: int | None = None

    def words(self) -> str:
        """As a line of the report."""
        limit = f"; batches of {self.largest_batch} at most" if self.largest_batch else ""
        pixels = (
            f"; {self.different} of {self.pixels} pixels differ by one level of 255"
            if self.pixels
            else ""
        )
        return f"largest difference {self.difference:.1e}{pixels}{limit}"


def export_torch(map_: SampleGraph, example: Example, path: Path) -> Agreement:
    """Write the map as an exported program of torch, with any batch size, and see that it gives the
    same samples.

    Raises:
        ValueError: a network that torch.export cannot follow, or other samples.
    """
    program, most = _exported(map_, example)
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return agreement(map_, example, lambda part: loaded(*part.arguments()), path)._replace(
        largest_batch=most
    )


def export_onnx(map_: SampleGraph, example: Example, path: Path) -> Agreement:
    """Write the map as ONNX with the inputs z, gamma and the condition's, and see that onnxruntime
    gives the same samples.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: a network that cannot be written as ONNX, or other samples.
    """
    try:
        import onnxruntime  # noqa: PLC0415 (optional)
        import onnxscript  # noqa: F401, PLC0415 (optional)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ONNX needs {error.name}: pip install 'freeflow-lightning[onnx]'"
        ) from error
    program, most = _exported(map_, example)
    names = list(example.inputs())
    try:
        with _quiet():
            torch.onnx.export(
                program,
                (),
                path,
                input_names=names,
                output_names=["sample"],
                dynamo=True,
                dynamic_shapes=tuple(
                    shape for shape in _shapes(example, "batch") if shape is not None
                ),
                external_data=_large(map_),
            )
    except Exception as error:
        raise ValueError(f"this student cannot be written as ONNX ({_reason(error)})") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}

    def run(part: Example) -> Tensor:
        feeds = {name: tensor.numpy() for name, tensor in part.inputs().items() if name in taken}
        return torch.from_numpy(session.run(None, feeds)[0])

    return agreement(map_, example, run, path)._replace(largest_batch=most)


@torch.no_grad()
def agreement(
    map_: SampleGraph, example: Example, run: Callable[[Example], Tensor], path: Path
) -> Agreement:
    """Compare a graph's samples with the student's, for the whole example and for one row.

    Raises:
        ValueError: they are other samples.
    """
    for rows in (len(example.z), 1):
        part = example.first(rows)
        expected, found = map_(*part.arguments()), run(part)
        gap = float((found - expected).abs().max())
        a, b = _pixels(expected), _pixels(found)
        levels = int((a - b).abs().max()) if a is not None and b is not None else 0
        if not gap <= TOLERANCE * max(1.0, float(expected.abs().max())) or levels > 1:
            raise ValueError(
                f"{path.name} gives other samples than the student (largest difference "
                f"{gap:.2g}): it is not usable"
            )
        if rows == len(example.z):
            different = 0 if a is None or b is None else int((a != b).sum())
            result = Agreement(gap, 0 if a is None else a.numel(), different)
    return result


def _pixels(x: Tensor) -> Tensor | None:
    """Levels of pictures in [-1, 1] [B, 1 or 3, H, W]; None for other samples."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return None
    return (127.5 * x.double() + 128).floor().clamp(0, 255).int()


def _exported(
    map_: SampleGraph, example: Example
) -> tuple[torch.export.ExportedProgram, int | None]:
    """The traced map, and the largest batch that it takes."""
    first: Exception | None = None
    for most in LARGEST_BATCH:
        batch = torch.export.Dim("batch", min=1, max=most)
        try:
            with torch.no_grad(), _quiet():
                return torch.export.export(
                    map_, example.arguments(), dynamic_shapes=_shapes(example, batch)
                ), most
        except Exception as error:  # whatever tracing meets: its errors have no common class
            first = first or error
    assert first is not None
    raise ValueError(
        f"torch.export cannot follow this student's network ({_reason(first)}): leave --onnx and "
        f"--pt2 out"
    ) from first


def _shapes(example: Example, batch: Any) -> tuple[Any, ...]:
    """The first axis of every input is the batch."""
    named = isinstance(example.condition, dict)
    rows: Any = {name: {0: batch} for name in example.condition} if named else {0: batch}
    shapes = ({0: batch}, {0: batch}, None if example.condition is None else rows, {0: batch})
    return shapes if example.noise is not None else shapes[:-1]


def _large(map_: SampleGraph) -> bool:
    """Whether the weights need a file of their own, path.onnx.data: ONNX holds less than 2 GiB
    itself.
    """
    return sum(p.numel() * p.element_size() for p in map_.parameters()) > 1.5 * 2**30


def _reason(error: BaseException) -> str:
    """The first line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's running commentary."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
