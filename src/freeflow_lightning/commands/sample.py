"""freeflow sample: any number of one-step samples, by any number of processes, as pictures or as an .npz."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli
from torch import nn

from freeflow_lightning.commands.parser import BriefErrors, about
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import draws_pictures
from freeflow_lightning.sampling.draw_into import BatchSizes, draw_into
from freeflow_lightning.sampling.processes import joined, start, starts_others
from freeflow_lightning.sampling.sample_folder import SampleFolder
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.official_weights import OfficialConvention
from freeflow_lightning.students.open_student import (
    Overrides,
    draw_of_options,
    open_student,
    pick_device,
    sampler_of_options,
)
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.output_folder import claim_names, publish

SWEEP = "sweep.json"
"""Lists sweep.png, and says which guidance scales it shows."""


def sample(
    checkpoint: str,
    num_samples: int = 64,
    guidance: Sequence[float] = (1.5,),
    seed: int = 0,
    output: str = "samples",
    classes: list[int] | None = None,
    balanced: bool = False,
    npz: bool = False,
    teacher: bool | Teacher = False,
    steps: int | None = None,
    method: Literal["euler", "heun", "midpoint", "rk4"] | None = None,
    batch_size: int = 256,
    decode_batch_size: int = 64,
    average: str | None = None,
    device: str = "auto",
    devices: int = 1,
    overwrite: bool = False,
    image_size: Literal[256, 512] | None = None,
    vae: str | None = None,
    official: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
    prompts: str | None = None,
    network: nn.Module | None = None,
    trust: list[str] | None = None,
) -> None:
    """Draw one-step samples. Sample i depends on the seed and i alone: not on batch size, processes or device.

    Writes one 000000.png per sample, or with --npz one samples.npz that ADM's evaluator reads (arr_0, uint8, NHWC; arr_1,
    the classes), and grid.png with the first 256. Run it again after an interruption: it draws what is missing or damaged.
    A file that samples.json does not list is never overwritten. Under torchrun, or with --devices, the processes share the
    work.

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote, a folder or hub repository that `freeflow export` wrote, or the
            FreeFlow authors' weights.
        num_samples: how many samples.
        guidance: guidance scale gamma, inside the range the student was trained for. Several make a sweep with the same
            noise: a folder for each, and sweep.png.
        seed: seed of the noise and of drawn classes.
        output: folder to write to; made if it does not exist.
        classes: class labels, repeated in turn; drawn uniformly if not given.
        balanced: every class in turn, equally many of each. Papers with drawn classes report a slightly higher FID.
        npz: write samples.npz instead of single pictures.
        teacher: let the student's teacher draw, from the same noise. Or a Teacher, its class and then its
            arguments as --teacher.NAME, which takes the place of the checkpoint's; it draws if --steps or --method is given.
        steps: the teacher's steps; 64 if not given.
        method: the teacher's one-step rule; heun if not given.
        batch_size: samples per network evaluation.
        decode_batch_size: samples that a latent teacher's decoder takes at once.
        average: which moving average, for example ema_0_9999, or raw; the first one if not given.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
        devices: processes to start, one per accelerator (or on the CPU's cores).
        overwrite: remove the samples that the folder holds, as its samples.json lists them, and nothing else.
        image_size: of official weights: height and width of the pictures, 256 or 512; must be the file's.
        vae: of official weights: folder or hub repository of the VAE; stabilityai/sd-vae-ft-ema if not given.
        official: how to read official weights; what is auto is measured and said.
        prompts: of an exported student of prompts: folder that `freeflow embed` wrote.
        network: takes the place of the network that the checkpoint's student started from, or says it where the checkpoint
            cannot: its class, then its arguments as --network.NAME.
        trust: class paths outside this package that the checkpoint may import.
    """
    if min(num_samples, batch_size, decode_batch_size) < 1:
        raise ValueError(
            f"expected at least one sample and batches of at least one, got {num_samples}, {batch_size} and {decode_batch_size}"
        )
    if starts_others(devices):
        start(devices)
        return
    with joined() as processes:
        overrides = Overrides(teacher if isinstance(teacher, Teacher) else None, network, trust)
        student = open_student(checkpoint, average, image_size, vae, official, prompts, overrides).to(
            pick_device(device, processes)
        )
        scales = sorted(set(guidance))
        if not scales:
            raise ValueError("expected at least one guidance scale, got none: --guidance 1.5")
        samplers = [sampler_of_options(student, gamma, teacher, steps, method) for gamma in scales]
        draw = draw_of_options(student.teacher, seed, classes, balanced)
        flat = not draws_pictures(student.teacher, student.device)
        is_sweep = len(scales) > 1 and not flat
        if processes.first and is_sweep:
            claim_names(Path(output), SWEEP, "sample", ["sweep.png"])
        folders = []
        with progress_bar(processes.first) as bar:
            for sampler in samplers:
                path = Path(output) / f"guidance_{sampler.guidance:g}" if len(scales) > 1 else Path(output)
                folder = SampleFolder(path, num_samples, sampler.facts() | draw.facts(), npz=npz or flat)
                draw_into(
                    folder,
                    sampler,
                    draw,
                    sizes=BatchSizes(batch_size, decode_batch_size),
                    device=student.device,
                    processes=processes,
                    overwrite=overwrite,
                    start=lambda total: partial(bar.advance, bar.add_task("sampling", total=total)),
                )
                folders.append(folder)
        if not processes.first:
            return
        if is_sweep:
            publish_sweep(Path(output), samplers, folders)
        several = f" at each of {len(scales)} guidance scales" if len(scales) > 1 else ""
        print(f"{num_samples} samples{several} in {output}")


def publish_sweep(output: Path, samplers: Sequence[Sampler], folders: Sequence[SampleFolder]) -> None:
    """Write sweep.png: the first samples of each guidance scale, in a row of their own."""
    scales = [sampler.guidance for sampler in samplers]
    rows = {f"guidance {gamma:g}": folder.first(12) for gamma, folder in zip(scales, folders, strict=True)}
    figure = plots.rows(rows, f"{samplers[0].name}: the same noise, column by column")
    publish(output, SWEEP, "sample", {"guidance": scales}, {"sweep.png": plots.png(figure)})


def main() -> None:
    """Parse the command line of `freeflow sample`."""
    auto_cli(
        sample,
        args=sys.argv[2:],
        prog="freeflow sample",
        description=about(sample),
        as_positional=False,
        parser_class=BriefErrors,
    )
