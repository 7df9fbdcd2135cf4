"""What a measurement was made on, and how fast that could be."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250e12, 75e12),
    "GH200": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100 NVL": (835e12, 60e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "A800": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "A10": (125e12, 31.2e12),
    "RTX 4090": (165e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12),
}
"""Part of a device's name: the vendor's dense peak in FLOP/s, in bfloat16 (float32 sums) and in
float32 without TF32.
"""


def peak_flops(device_name: str, precision: str) -> float | None:
    """Return the vendor's peak of a device in FLOP/s, dense; None where it is not known, as for
    CPUs.

    >>> peak_flops("NVIDIA H200", "bf16-mixed"), peak_flops("AMD EPYC", "32")
    (989000000000000.0, None)
    """
    known = next((peaks for name, peaks in PEAKS.items() if name in device_name), None)
    return None if known is None else known[0 if precision.startswith("bf16") else 1]


def device_name(device: torch.device) -> str:
    """As the vendor calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def machine(device: torch.device) -> dict[str, Any]:
    """Facts that belong to every figure."""
    return {
        "device": device_name(device),
        "type": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "freeflow-lightning": version("freeflow-lightning"),
        "commit": commit(),
    }


def commit() -> str | None:
    """Return the commit of this package's source, "+" where it has been changed; None outside of a
    repository.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
