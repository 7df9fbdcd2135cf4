"""The stages, the most valuable first, each a list of cases."""

import contextlib
import io
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from derivatives import derivatives
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import Strategy
from peer_steps import peer_steps
from sampling_stage import exported, sampling
from subjects import Case, Scale, bench_subject, data, module, run_command, trainer
from torch import Tensor

from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.flow import training_generator
from freeflow_lightning.nets import LoRA
from freeflow_lightning.profiling.bench import estimate_costs, measure_step
from freeflow_lightning.profiling.bench_report import as_figures
from freeflow_lightning.training.run_loggers import read_metrics
from freeflow_lightning.training.strategies import FSDP2

HERE = Path(__file__).parent
GALAXIES = HERE.parents[2] / "examples" / "galaxies"
MOST_TIME = "00:00:04:00"
"""Of the distillation, so that the last stage has its turn; the steps that were made are said."""


# (a) smoke


def smoke(scale: Scale) -> Iterator[Case]:
    yield "loss beside the CPU's", lambda: compare_loss(scale)
    yield "20 steps, resumed bit for bit", lambda: resume(scale)


def compare_loss(scale: Scale) -> dict[str, Any]:
    """The same draw on the CPU in float32, and on the device in bf16-mixed."""
    made = module(scale.teacher("S/2").cpu(), skip_idle_rows=False)
    draw = made.draw(scale.batch(16), training_generator(0, 0, 0))
    there = to_device(draw, scale.device)
    with torch.no_grad():
        right = residuals_of(made.loss(draw))
        made.to(scale.device)
        made.teacher.to(scale.device)
        with torch.autocast(scale.device.type, torch.bfloat16):
            found = residuals_of(made.loss(there))
    off = {name: abs(found[name] / right[name] - 1) for name in right}
    assert max(off.values()) < 0.05, f"residuals differ by {off}"
    return {"residuals": right, "relative_difference": off}


def residuals_of(step: Any) -> dict[str, float]:
    return {name: float(x.norm().float().mean()) for name, x in step.residuals.items()}


def to_device(tree: Any, device: torch.device) -> Any:
    """A draw, tuples of tensors, on another device."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, tuple):
        moved = [to_device(part, device) for part in tree]
        return type(tree)(*moved) if hasattr(tree, "_fields") else tuple(moved)
    return tree


def resume(scale: Scale) -> dict[str, Any]:
    """Twenty steps at once, and ten and ten, with deterministic kernels."""
    place = scale.output / "smoke"

    def train(steps: int, **more: Any) -> dict[str, Tensor]:
        made = module(scale.teacher("S/2"))
        keep = ModelCheckpoint(place, "{step}", every_n_train_steps=half, save_top_k=-1)
        options = {"enable_checkpointing": True, "deterministic": True}
        run = trainer(scale, steps, StudentEMA(), keep, **options)
        run.fit(made, data(scale, 16, half), **more)
        return made.state_dict()

    half = 2 if scale.tiny else 10
    start = time.perf_counter()
    try:
        whole = train(2 * half)
        again = train(2 * half, ckpt_path=str(place / f"step={half}.ckpt"))
    finally:
        torch.use_deterministic_algorithms(False)
    different = [name for name, value in whole.items() if not torch.equal(value, again[name])]
    assert not different, f"{len(different)} tensors differ, {different[:3]}"
    return {"seconds": time.perf_counter() - start, "tensors_equal": len(whole)}


# (b) step time


COMPILED: dict[str, Any] = {"compile": "inductor", "skip_idle_rows": False}
EAGER: dict[str, dict[str, Any]] = {
    "eager": {},
    "activation checkpointing": {"activation_checkpointing": True},
    "LoRA auxiliary": {"lora": LoRA(rank=64, networks=("auxiliary",))},
}
"""Settings of a step by their name; COMPILED and its kin take as much memory or less."""


def step_time(scale: Scale) -> Iterator[Case]:
    variants = EAGER | {
        "compiled, static shapes, idle rows kept": COMPILED,
        "compiled, dynamic shapes, idle rows left out": COMPILED | {"skip_idle_rows": True},
    }
    graphs = COMPILED | {"graphs": True}
    if scale.tiny:  # compilation takes minutes on a CPU
        variants = {"LoRA auxiliary": EAGER["LoRA auxiliary"]}
    for label, image_size, batch, settings in steps_of(variants):
        yield label, lambda i=image_size, b=batch, s=settings: bench(scale, i, b, s)
    yield from peer_steps(scale)
    if not scale.tiny:
        label = "XL/2 256, batch 64, compiled, CUDA graphs, idle rows kept"
        yield label, lambda: bench(scale, 256, 64, graphs)


def steps_of(
    variants: dict[str, dict[str, Any]],
) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Label, size of the pictures, batch and settings."""
    for name, settings in variants.items():
        yield f"XL/2 256, batch 64, {name}", 256, 64, settings
        if name in ("eager", "activation checkpointing"):
            yield f"XL/2 512, batch 16, {name}", 512, 16, settings


def bench(scale: Scale, image_size: int, batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    """`freeflow bench` of a step beside its bare evaluations; stage i has `inspect`'s estimates."""
    settings = dict(settings)
    torch._dynamo.reset()
    torch._inductor.config.triton.cudagraphs = settings.pop("graphs", False)
    subject = bench_subject(scale, "XL/2", image_size, batch, **settings)
    try:
        # a Trainer's end moves networks and moments to the CPU: 20 GB in each case
        with patch.object(Strategy, "teardown", lambda self: None):
            report = measure_step(
                subject, scale.device, rounds=scale.rounds(5), compiled=False, estimates=False
            )
    finally:
        torch._inductor.config.triton.cudagraphs = False
    return as_figures(report)


def estimates(scale: Scale) -> Iterator[Case]:
    """Of the memory of stage b's steps, which takes a CPU alone."""
    here = scale._replace(device=torch.device("cpu"))
    for label, image_size, batch, settings in steps_of(EAGER):
        yield label, lambda i=image_size, b=batch, s=settings: estimate(here, i, b, s)


def estimate(scale: Scale, image_size: int, batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    costs = estimate_costs(bench_subject(scale, "XL/2", image_size, batch, **settings))
    assert costs is not None
    return {"bytes": costs.peak}


# (c) precision


def precision(scale: Scale) -> Iterator[Case]:
    yield "SiT-S/2", lambda: precision_table(scale)


def precision_table(scale: Scale) -> dict[str, Any]:
    """The README's table, as the tool that made it prints it."""
    words = ["precision_table.py", "--device", str(scale.device)]
    words += ["--input_size", "4" if scale.tiny else "32", "--batch_size", str(scale.batch(16))]
    said, before = io.StringIO(), sys.argv
    sys.argv = words
    try:
        tool = runpy.run_path(str(HERE.parent / "precision_table.py"))
        if scale.tiny:
            sizes = {"S": {"hidden_size": 16, "depth": 1, "num_heads": 2}}
            tool["main"].__globals__.update(STEPS=(8,), WIDTHS=(5e-3,), SIZES=sizes)
        with contextlib.redirect_stdout(said):
            tool["main"]()
    finally:
        sys.argv = before
    return {"text": said.getvalue()}


# (e) FSDP2 with NCCL


def sharded(scale: Scale) -> Iterator[Case]:
    yield "one process: a folder written, read and gone on from", lambda: shard(scale)


def shard(scale: Scale) -> dict[str, Any]:
    place = scale.output / "sharded"

    def train(steps: int, **more: Any) -> tuple[dict[str, Tensor], float]:
        made = module(scale.teacher("B/2"))
        keep = ModelCheckpoint(place, "{step}", every_n_train_steps=2, save_top_k=-1)
        strategy = FSDP2(save_distributed_checkpoint=True)
        run = trainer(
            scale, steps, StudentEMA(), keep, enable_checkpointing=True, strategy=strategy
        )
        start = time.perf_counter()
        run.fit(made, data(scale, 32, 2), **more)
        weights = {name: x.full_tensor() for name, x in made.state_dict().items() if is_shard(x)}
        return weights, time.perf_counter() - start

    whole, seconds = train(4)
    again, _ = train(4, ckpt_path=str(place / "step=2.ckpt"))
    backend = torch.distributed.get_backend()
    torch.distributed.destroy_process_group()
    worst = max(float((whole[name] - again[name]).abs().max()) for name in whole)
    return {"backend": backend, "seconds": seconds, "largest_difference": worst}


def is_shard(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.distributed.tensor.DTensor)


# (f) a distillation


def distillation(scale: Scale) -> Iterator[Case]:
    config = "digits" if scale.tiny else "faces"
    yield f"{config}, full budget", lambda: distil(scale, config)
    if (GALAXIES / "galaxies.safetensors").is_file():  # converted as the example says
        yield "galaxies, full budget", lambda: distil(scale, "galaxies.yaml", GALAXIES)


def distil(scale: Scale, config: str, place: Path | None = None) -> dict[str, Any]:
    """`freeflow fit` of a config, by its command; the figures of its metrics.csv and their curves."""
    accelerator = "gpu" if scale.device.type == "cuda" else "cpu"
    words = ["fit", "--config", config, "--trainer.accelerator", accelerator]
    words += ["--trainer.default_root_dir", str(scale.output.absolute())]
    words += ["--trainer.max_time", MOST_TIME]
    if scale.tiny:
        words += ["--trainer.max_steps", "2", "--data.val_samples", "0"]
        words += ["--trainer.callbacks", "[]"]
    start = time.perf_counter()
    run_command(words, place)
    seconds = time.perf_counter() - start
    run = max((scale.output / "runs" / Path(config).stem).glob("version_*"))
    last: dict[str, float] = {}
    curve: list[dict[str, float]] = []
    for row in read_metrics(run / "metrics.csv"):
        last |= row
        if figures := {k: v for k, v in row.items() if k.startswith("fid/")}:
            curve.append({"step": row["step"]} | figures)
    names = ("fid/", "error/", "health/", "speed/")
    return {
        "seconds": seconds,
        "steps": last.get("step", 0),
        "last": {k: v for k, v in last.items() if k.startswith(names)},
        "curve": curve,
    }


STAGES: dict[str, Callable[[Scale], Iterator[Case]]] = {
    "a": smoke,
    "d": derivatives,
    "e": sharded,
    "g": sampling,
    "b": step_time,
    "c": precision,
    "f": distillation,
    "h": exported,
    "i": estimates,
}
"""In the order in which they run: what is short and was never measured first."""
