"""freeflow sample: any number of samples, by any number of processes, as pictures or as an .npz."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from freeflow_lightning.commands.options import (
    FolderOptions,
    NoiseOptions,
    SamplerOptions,
    StudentOptions,
    WorkOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import Draw, draws_pictures
from freeflow_lightning.sampling.draw_into import BatchSizes, draw_into
from freeflow_lightning.sampling.processes import Processes, joined, start, starts_others
from freeflow_lightning.sampling.sample_folder import SampleFolder
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.training.output_folder import claim_names, publish

SWEEP = "sweep.json"
"""Lists sweep.png, and says which guidance scales it shows."""


def sample(
    opening: StudentOptions,
    num_samples: int = 64,
    guidance: Sequence[float] | None = None,
    output: str = "samples",
    *,
    noise: NoiseOptions,
    beside: SamplerOptions,
    files: FolderOptions,
    work: WorkOptions,
) -> None:
    """Draw samples in one step, or in --steps. Sample i depends on the seed and i alone: not on batch
    size, processes or device.

    Writes one 000000.png per sample, or with --npz one samples.npz that ADM's evaluator reads
    (arr_0, uint8, NHWC; arr_1, the classes), and grid.png with the first 256. Run it again after an
    interruption: it draws what is missing or damaged. A file that samples.json does not list is
    never overwritten. Under torchrun, or with --devices, the processes share the work.

    Args:
        opening: the student.
        num_samples: how many samples.
        guidance: guidance scale gamma, inside the range the student was trained for; the run's
            evaluation_guidance if not given. Several make a sweep with the same noise: a folder for
            each, and sweep.png.
        output: folder to write to; made if it does not exist.
        noise: the noise and the classes.
        beside: what takes the place of the checkpoint's own, and who draws.
        files: how the folder is written.
        work: where it runs, and how much at once.
    """
    work.check_counts(num_samples)
    if starts_others(work.devices):
        start(work.devices)
        return
    with joined() as processes:
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        samplers = samplers_at(guidance, beside, student)
        draw = noise.draw(student.teacher)
        flat = not draws_pictures(student.teacher, student.device)
        is_sweep = len(samplers) > 1 and not flat
        if processes.first and is_sweep:
            claim_names(Path(output), SWEEP, "sample", ["sweep.png"])
        folders = [
            SampleFolder(path, num_samples, sampler.facts() | draw.facts(), npz=files.npz or flat)
            for path, sampler in zip(places(Path(output), samplers), samplers, strict=True)
        ]
        fill(folders, samplers, draw, work, processes, overwrite=files.overwrite)
        if not processes.first:
            return
        if is_sweep:
            publish_sweep(Path(output), samplers, folders)
        at = f"guidance {samplers[0].guidance:g}"
        if len(samplers) > 1:
            at = f"each of {len(samplers)} guidance scales"
        print(f"{num_samples} samples at {at} in {output}")


def samplers_at(
    guidance: Sequence[float] | None, beside: SamplerOptions, student: FlowMap
) -> list[Sampler]:
    """Who draws at each guidance scale, ascending (Raises: ValueError without any)."""
    scales = sorted({student.evaluation_guidance} if guidance is None else set(guidance))
    if not scales:
        raise ValueError("expected at least one guidance scale, got none: --guidance 1.5")
    return [beside.sampler_of(student, gamma) for gamma in scales]


def places(output: Path, samplers: Sequence[Sampler]) -> list[Path]:
    """The folder of each sampler: the output itself, or one in it for each of several."""
    if len(samplers) == 1:
        return [output]
    return [output / f"guidance_{sampler.guidance:g}" for sampler in samplers]


def fill(
    folders: Sequence[SampleFolder],
    samplers: Sequence[Sampler],
    draw: Draw,
    work: WorkOptions,
    processes: Processes,
    *,
    overwrite: bool,
) -> None:
    """Draw what the folders lack, under a progress bar."""
    with progress_bar(processes.first) as bar:
        for folder, sampler in zip(folders, samplers, strict=True):
            draw_into(
                folder,
                sampler,
                draw,
                sizes=BatchSizes(work.batch_size, work.decode_batch_size),
                device=pick_device(work.device, processes),
                processes=processes,
                overwrite=overwrite,
                start=lambda total: partial(bar.advance, bar.add_task("sampling", total=total)),
            )


def publish_sweep(
    output: Path, samplers: Sequence[Sampler], folders: Sequence[SampleFolder]
) -> None:
    """Write sweep.png: the first samples of each guidance scale, in a row of their own."""
    scales = [sampler.guidance for sampler in samplers]
    rows = {
        f"guidance {gamma:g}": folder.first(12)
        for gamma, folder in zip(scales, folders, strict=True)
    }
    figure = plots.picture_rows(rows, f"{samplers[0].name}: the same noise, column by column")
    publish(output, SWEEP, "sample", {"guidance": scales}, {"sweep.png": plots.png(figure)})


main = partial(run, sample)
