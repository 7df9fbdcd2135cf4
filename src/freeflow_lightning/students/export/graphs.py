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
from torch import Tensor

from freeflow_lightning.students.export.sample_graph import Example, SampleGraph

TOLERANCE = 1e-3
"""Largest difference from the student's samples, as a share of their largest value: other kernels
add up in another order.
"""


LARGEST_BATCH = (None, 63)
"""What is tried: any, or less than 64, where the upsampling in VAEs and UNets of diffusers takes
another path.
"""


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
    program, most = _export_map(map_, example)
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
    program, most = _export_map(map_, example)
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


def _export_map(
    map_: SampleGraph, example: Example
) -> tuple[torch.export.ExportedProgram, int | None]:
    """Return the traced map, and the largest batch that it takes."""
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
    """Return whether the weights need a file of their own, path.onnx.data: ONNX holds less than 2
    GiB itself.
    """
    return sum(p.numel() * p.element_size() for p in map_.parameters()) > 1.5 * 2**30


def _reason(error: BaseException) -> str:
    """Return the first line of what an error goes back to."""
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
