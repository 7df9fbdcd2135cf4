"""What a student's samples cost: in batches, one by one, compiled, and as other people's formats."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from subjects import Case, Scale, module, run_command
from timing import measure

from freeflow_lightning import FlowMap
from freeflow_lightning.flow import Pairs


def sampling(scale: Scale) -> Iterator[Case]:
    for batch in (256, 1):
        for version in ("v1", "v2"):
            label = f"XL/2 256, batch {batch}, noise {version}"
            yield label, lambda b=batch, v=version: throughput(scale, b, v)
    if not scale.tiny:
        yield "XL/2 256, batch 1, torch.compile", lambda: throughput(scale, 1, "v1", compiled=True)


def exported(scale: Scale) -> Iterator[Case]:
    if scale.tiny:  # exporting takes longer than all else
        return
    yield "the student of stage f: diffusers pipeline", lambda: pipeline(scale)
    if find_spec("onnxruntime") is not None:
        yield "the student of stage f: ONNX Runtime", lambda: onnx(scale)


def student_of(scale: Scale, size: str) -> FlowMap:
    made = module(scale.teacher(size)).to(scale.device)
    made.teacher.to(scale.device)
    return FlowMap(made.student, made.teacher, (1.0, 2.0), {"pairs": Pairs.PRIOR_TO_ANY})


def throughput(scale: Scale, batch: int, version: str, *, compiled: bool = False) -> dict[str, Any]:
    student, n = student_of(scale, "XL/2"), scale.batch(batch) if batch > 1 else 1
    if compiled:
        student.network.compile(mode="reduce-overhead")

    def draw() -> None:
        with torch.autocast(scale.device.type, torch.bfloat16):
            student.sample(n, guidance=1.5, batch_size=n, noise=version)  # type: ignore[arg-type]

    figures = measure(scale.device, draw, rounds=scale.rounds(10))
    return figures | {"samples_per_second": n / figures["seconds"]}


def pipeline(scale: Scale) -> dict[str, Any]:
    """A folder of `freeflow export --pipeline`, as a stranger runs it."""
    from diffusers import DiffusionPipeline  # noqa: PLC0415 (slow to import)

    folder = export(scale, "--pipeline")
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True).to(scale.device)
    pipe.set_progress_bar_config(disable=True)
    n = scale.batch(64)
    figures = measure(scale.device, lambda: pipe(num_images=n), rounds=scale.rounds(10))
    return figures | {"samples_per_second": n / figures["seconds"]}


def onnx(scale: Scale) -> dict[str, Any]:
    """A file of `freeflow export --onnx`, on the providers that ONNX Runtime has here."""
    import onnxruntime  # noqa: PLC0415 (may not be there)

    path = next(export(scale, "--onnx").rglob("*.onnx"))
    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    n = scale.batch(64)
    inputs = {x.name: random_input(x, n) for x in session.get_inputs()}
    figures = measure(scale.device, lambda: session.run(None, inputs), rounds=scale.rounds(10))
    return figures | {
        "samples_per_second": n / figures["seconds"],
        "providers": session.get_providers(),
    }


def random_input(described: Any, n: int) -> np.ndarray:
    """An input of the described type and shape, of n rows."""
    shape = [size if isinstance(size, int) else n for size in described.shape]
    if "int" in described.type:
        return np.zeros(shape, np.int64)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def export(scale: Scale, form: str) -> Path:
    """The folder that `freeflow export` makes of the newest checkpoint of stage f."""
    runs = sorted((scale.output / "fits").glob("faces*/runs/*/version_*"))
    if not runs:
        raise ValueError("there is no student yet: run stage f first")
    folder = scale.output / f"student{form}"
    words = ["export", "--checkpoint", str(runs[-1]), "--output", str(folder), form]
    run_command([*words, "--overwrite", "--device", "cpu"])
    return folder
