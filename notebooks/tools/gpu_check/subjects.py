"""What is measured: networks of the published sizes, or tiny ones in their place."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import nn

from freeflow_lightning import FreeFlowModule, PriorDataModule
from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.nets import SiT, device_of
from freeflow_lightning.profiling.bench_subject import BenchSubject
from freeflow_lightning.profiling.step_memory import sit_teacher
from freeflow_lightning.teachers import SiTVelocity, Teacher, VelocityTeacher

TINY = {
    "input_size": 4,
    "in_channels": 4,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 8,
}


class Scale(NamedTuple):
    """How large everything is.

    Args:
        output: folder of the figures.
        device: that is measured.
        tiny: networks of a few numbers in the place of all others, and few repetitions.
    """

    output: Path
    device: torch.device
    tiny: bool

    def teacher(self, size: str, image_size: int = 256) -> Teacher:
        """A SiT of a published size with random weights, made on the device: on a CPU that takes long."""
        with self.device:
            if self.tiny:
                net = shaken(SiT(**TINY))  # type: ignore[arg-type]
                return VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes)
            teacher = sit_teacher(size, image_size)  # type: ignore[arg-type]
            shaken(teacher.backbone(), 0.02)  # as wide as it is initialised
            return teacher

    def batch(self, size: int) -> int:
        return 4 if self.tiny else size

    def rounds(self, count: int) -> int:
        return 1 if self.tiny else count


def shaken(net: nn.Module, size: float = 0.2) -> nn.Module:
    """Weights that are nowhere 0: as initialised, a SiT answers 0 to everything."""
    g = torch.Generator(device_of(net)).manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.copy_(size * torch.randn(p.shape, generator=g, device=p.device))
    return net


def module(teacher: Teacher, **settings: Any) -> FreeFlowModule:
    torch.manual_seed(0)
    made = FreeFlowModule(teacher, check_teacher=False, **settings)
    for network in made.networks().values():
        if (embedders := getattr(network, "embedders", None)) is not None:
            shaken(embedders, 0.02)
    return made


def bench_subject(
    scale: Scale, size: str, image_size: int, batch: int, **settings: Any
) -> BenchSubject:
    """A step of the paper's settings at bf16-mixed."""

    def make(teacher: Teacher) -> FreeFlowModule:
        return FreeFlowModule(teacher, check_teacher=False, **settings)

    teacher = scale.teacher(size, image_size)
    steps = {256: 1_500_000, 512: 1_000_000}[image_size]
    return BenchSubject(
        f"SiT-{size} {image_size}",
        teacher,
        make,
        scale.batch(batch),
        "bf16-mixed",
        [StudentEMA()],
        run_steps=steps,
    )


def trainer(scale: Scale, steps: int, *callbacks: Any, **settings: Any) -> Trainer:
    """A Trainer without bars."""
    quiet = {
        "accelerator": "gpu" if scale.device.type == "cuda" else "cpu",
        "devices": 1,
        "max_epochs": -1,
        "max_steps": steps,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "callbacks": list(callbacks),
        "precision": "bf16-mixed",
        "log_every_n_steps": 10**6,
    }
    return Trainer(**quiet | settings)


def data(scale: Scale, batch: int, length: int) -> PriorDataModule:
    return PriorDataModule(batch_size=scale.batch(batch), length=length)


Case = tuple[str, Callable[[], dict[str, Any]]]
"""A label, and what measures its figures."""


def run_command(words: list[str], place: Path | None = None) -> None:
    """Run `freeflow` as users do (Raises: RuntimeError where it ends with an error)."""
    command = [sys.executable, "-m", "freeflow_lightning", *words]
    ended = subprocess.run(command, cwd=place, check=False)
    if ended.returncode:
        raise RuntimeError(f"freeflow {words[0]} ended with {ended.returncode}")
