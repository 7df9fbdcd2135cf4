"""freeflow sample: one-step samples from a checkpoint as a grid, single pictures, or an .npz."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor

from freeflow_lightning import plots
from freeflow_lightning.commands.errors import BriefErrors
from freeflow_lightning.commands.students import load_student
from freeflow_lightning.official import OfficialConvention
from freeflow_lightning.reference import pictures


def sample(
    checkpoint: str,
    num_samples: int = 64,
    guidance: float = 1.5,
    seed: int = 0,
    output: str = "samples",
    classes: list[int] | None = None,
    npz: bool = False,
    batch_size: int = 256,
    average: str | None = None,
    device: str = "auto",
    image_size: Literal[256, 512] | None = None,
    vae: str | None = None,
    official: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
) -> None:
    """Draw one-step samples. Sample i depends on the seed and i alone: not on the batch size, not on the device.

    Writes grid.png (the first 256 at most) and one 000000.png per sample, or with --npz one samples.npz that ADM's
    evaluator reads (arr_0, uint8, NHWC).

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote, or the FreeFlow authors' weights.
        num_samples: how many samples.
        guidance: guidance scale gamma, inside the range the student was trained for.
        seed: seed of the noise and of drawn classes.
        output: folder to write to; made if it does not exist.
        classes: class labels, repeated in turn; drawn uniformly if not given.
        npz: write samples.npz instead of single pictures.
        batch_size: samples per network evaluation.
        average: which moving average, for example ema_0_9999, or raw; the first one if not given.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
        image_size: of official weights: height and width of the pictures, 256 or 512; must be the file's.
        vae: of official weights: folder or hub repository of the VAE; stabilityai/sd-vae-ft-ema if not given.
        official: how to read official weights; what is auto is measured and said.
    """
    flow_map = load_student(checkpoint, average, image_size, vae, official).to(pick_device(device))
    condition = None
    if classes:
        if not flow_map.teacher.num_classes:
            raise ValueError("--classes: this student has no classes; leave the option out")
        labels = torch.tensor(classes).repeat(-(-num_samples // len(classes)))[:num_samples]
        condition = flow_map.teacher.class_condition(labels)
    x = flow_map.sample(num_samples, condition, guidance, seed, batch_size=batch_size)
    drawn = pictures(flow_map.teacher, x).cpu()
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write(drawn, folder, npz=npz)
    print(f"{num_samples} samples in {folder}")


def write(drawn: Tensor, folder: Path, *, npz: bool) -> None:
    """Write pictures uint8 [N, C, H, W], or points [N, ...] (always as .npz, and as a scatter plot in two dimensions)."""
    if drawn.ndim != 4:
        np.savez(folder / "samples.npz", arr_0=drawn.numpy())
        if drawn.shape[1:] == (2,):
            plots.save(plots.points({"samples": drawn}), folder / "grid.png")
        return
    sheet = plots.grid(drawn[:256])
    Image.fromarray(sheet).resize((sheet.shape[1] * zoom(sheet), sheet.shape[0] * zoom(sheet)), Image.Resampling.NEAREST).save(
        folder / "grid.png"
    )
    if npz:
        np.savez(folder / "samples.npz", arr_0=drawn.permute(0, 2, 3, 1).numpy())
        return
    for i, picture in enumerate(drawn):
        Image.fromarray(plots.grid(picture[None])).save(folder / f"{i:06d}.png")


def zoom(sheet: np.ndarray) -> int:
    """Whole factor that makes a small sheet about 512 pixels high."""
    return max(1, 512 // sheet.shape[0])


def pick_device(name: str) -> torch.device:
    """The named device; "auto" is the accelerator that torch sees, or the CPU."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def main() -> None:
    """Parse the command line of `freeflow sample`."""
    auto_cli(sample, args=sys.argv[2:], prog="freeflow sample", as_positional=False, parser_class=BriefErrors)
