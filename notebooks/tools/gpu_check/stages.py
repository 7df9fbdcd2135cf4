"""The stages, the most valuable first, each a list of cases."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from derivatives import derivatives
from lightning.pytorch import Callback
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


Settings = dict[str, dict[str, Any]]
COMPILED: dict[str, Any] = {"compile": "inductor", "skip_idle_rows": False}
STEPS: Settings = {
    "eager": {},
    "compiled, static shapes, idle rows kept": COMPILED,
    "compiled, dynamic shapes, idle rows left out": COMPILED | {"skip_idle_rows": True},
    "compiled, CUDA graphs, idle rows kept": COMPILED | {"graphs": True},
    "LoRA auxiliary": {"lora": LoRA(rank=64, networks=("auxiliary",))},
}
"""Settings of a step by their name; COMPILED and its kin take as much memory or less."""
CHECKPOINTED: Settings = {"activation checkpointing": {"activation_checkpointing": True}}
LARGE: Settings = {"eager": {}} | CHECKPOINTED
"""What is measured at 512 too."""


def step_time(scale: Scale) -> Iterator[Case]:
    if scale.tiny:  # compilation takes minutes on a CPU
        yield from benches(scale, 256, 64, {"LoRA auxiliary": STEPS["LoRA auxiliary"]})
        yield from peer_steps(scale)
        return
    yield from benches(scale, 256, 64, STEPS)
    yield from peer_steps(scale)
    yield from benches(scale, 256, 64, CHECKPOINTED)
    yield from benches(scale, 512, 16, LARGE)


def benches(scale: Scale, image_size: int, batch: int, variants: Settings) -> Iterator[Case]:
    for name, settings in variants.items():
        label = f"XL/2 {image_size}, batch {batch}, {name}"
        yield label, lambda s=settings: bench(scale, image_size, batch, s)


def bench(scale: Scale, image_size: int, batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    """`freeflow bench` of a step beside its bare evaluations; stage i has `inspect`'s estimates."""
    settings = dict(settings)
    torch._dynamo.reset()
    torch._inductor.config.triton.cudagraphs = settings.pop("graphs", False)
    subject = bench_subject(scale, "XL/2", image_size, batch, **settings)
    subject.callbacks.append(GraphSteps())
    try:
        # a Trainer's end moves networks and moments to the CPU: 20 GB in each case
        with patch.object(Strategy, "teardown", lambda self: None):
            report = measure_step(
                subject, scale.device, rounds=scale.rounds(5), compiled=False, estimates=False
            )
    finally:
        torch._inductor.config.triton.cudagraphs = False
    return as_figures(report)


class GraphSteps(Callback):
    """Let CUDA graphs reuse the memory of a step's outputs from the next step on, not before."""

    def on_train_batch_start(self, *_: Any) -> None:
        torch.compiler.cudagraph_mark_step_begin()


def estimates(scale: Scale) -> Iterator[Case]:
    """Of the memory of stage b's steps, which takes a CPU alone."""
    here = scale._replace(device=torch.device("cpu"))
    plain = {name: settings for name, settings in STEPS.items() if "compile" not in settings}
    for image_size, batch, variants in ((256, 64, plain | CHECKPOINTED), (512, 16, LARGE)):
        for name, settings in variants.items():
            label = f"XL/2 {image_size}, batch {batch}, {name}"
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


# (f) distillations


class Run(NamedTuple):
    """A config that `freeflow fit` trains.

    Args:
        config: its name, or its file in `place`.
        words: what the command is told beside.
        place: the folder to run in.
        features: what its samples are compared in afterwards; not at all if empty.
    """

    config: str
    words: tuple[str, ...] = ()
    place: Path | None = None
    features: str = ""


def runs_of(scale: Scale) -> dict[str, Run]:
    """Each by its label."""
    if scale.tiny:
        return {"digits": Run("digits")}
    known = {"faces, full budget": Run("faces")}
    if (GALAXIES / "galaxies.safetensors").is_file():  # converted as the example says
        teacher = "--model.teacher.init_args.tau_max"
        seen = (GALAXIES, "galaxies.GalaxyFeatures")
        for seed in range(3):
            words = ("--seed_everything", str(seed))
            known[f"galaxies, seed {seed}"] = Run("galaxies.yaml", words, *seen)
        known["galaxies, all of their times"] = Run("galaxies.yaml", (teacher, "10"), *seen)
        more = ("--data.batch_size", "128")
        known["galaxies, batches of 128"] = Run("galaxies.yaml", more, *seen)
    return known


def distillations(scale: Scale) -> Iterator[Case]:
    """All at once, since only their quality is asked for; their figures one after the other."""
    runs = runs_of(scale)
    started = {label: start_fit(scale, label, run) for label, run in runs.items()}
    for label, run in runs.items():
        yield label, lambda p=started[label], n=label, r=run: figures_of_fit(scale, p, n, r)


def start_fit(scale: Scale, label: str, run: Run) -> subprocess.Popen[bytes]:
    accelerator = "gpu" if scale.device.type == "cuda" else "cpu"
    words = ["fit", "--config", run.config, "--trainer.accelerator", accelerator, *run.words]
    words += ["--trainer.default_root_dir", str(root_of(scale, label))]
    words += ["--trainer.max_time", MOST_TIME]
    if scale.tiny:
        words += ["--trainer.max_steps", "2", "--data.val_samples", "0"]
        words += ["--trainer.callbacks", "[]"]
    root_of(scale, label).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "freeflow_lightning", *words]
    with (root_of(scale, label) / "said.txt").open("wb") as said:
        return subprocess.Popen(command, cwd=run.place, stdout=said, stderr=said)


def root_of(scale: Scale, label: str) -> Path:
    return scale.output.absolute() / "fits" / label.replace(", ", "_").replace(" ", "_")


def figures_of_fit(
    scale: Scale, process: subprocess.Popen[bytes], label: str, run: Run
) -> dict[str, Any]:
    """The figures of its metrics.csv and their curves, and of an evaluation on many samples."""
    root = root_of(scale, label)
    if code := process.wait():
        raise RuntimeError(f"{(root / 'said.txt').read_text()[-2000:]} ({code})")
    version = max((root / "runs" / Path(run.config).stem).glob("version_*"))
    last: dict[str, float] = {}
    curve: list[dict[str, float]] = []
    rows = read_metrics(version / "metrics.csv")
    for row in rows:
        last |= row
        if figures := {k: v for k, v in row.items() if k.startswith("fid/")}:
            curve.append({"step": row["step"]} | figures)
    names = ("fid/", "error/", "health/", "speed/")
    found = {
        "steps": last.get("step", 0),
        "last": {k: v for k, v in last.items() if k.startswith(names)},
        "curve": curve,
    }
    return found | (evaluate(version, run) if run.features else {})


def evaluate(version: Path, run: Run) -> dict[str, Any]:
    """FID of the student at one step and of the teacher at 16 evaluations, beside the floor."""
    common = ["evaluate", "--checkpoint", str(version), "--features", run.features]
    common += ["--num_samples", "4096", "--reference_samples", "4096", "--batch_size", "2048"]
    ways = {
        "student at one step": ["--steps", "1"],
        "teacher at 16 evaluations": ["--teacher=true", "--steps", "8"],
    }
    found = {}
    for name, words in ways.items():
        folder = version / name.replace(" ", "_")
        run_command([*common, *words, "--output", str(folder)], run.place)
        said = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        found[name] = {
            "fid": said["scores"]["fid"]["value"],
            "floor": said["floor"]["fid"]["value"],
        }
    return {"evaluated": found}


STAGES: dict[str, Callable[[Scale], Iterator[Case]]] = {
    "a": smoke,
    "d": derivatives,
    "e": sharded,
    "g": sampling,
    "b": step_time,
    "c": precision,
    "f": distillations,
    "h": exported,
    "i": estimates,
}
"""In the order in which they run: what is short and was never measured first."""
