"""freeflow sample: any number of samples or posterior draws, by any number of processes, as pictures
or as an .npz.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from freeflow_lightning.commands.options import (
    FolderOptions,
    SamplerOptions,
    VersionedNoiseOptions,
    WorkOptions,
)
from freeflow_lightning.commands.posterior_options import (
    PerhapsStudentOptions,
    PosteriorOptions,
    SamplerAt,
    sampler_at,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.start_processes import start, starts_others
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.metrics.class_names import class_names
from freeflow_lightning.sampling.draw import draws_pictures
from freeflow_lightning.sampling.draw_into import BatchSizes, IndexedDraw, draw_into
from freeflow_lightning.sampling.noised_states import NoisedStates
from freeflow_lightning.sampling.processes import Processes, join_processes
from freeflow_lightning.sampling.sample_folder import SampleFolder
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.output_folder import claim_names, publish

USAGE = "freeflow sample CHECKPOINT [options]"
SWEEP = "sweep.json"
"""Lists sweep.png, and says which guidance scales it shows."""
STATES = "states.npz"
"""The noised states of posterior draws, as --posterior reads them."""
COLUMNS = 16
"""Of grid.png at most: one for each noised state, where there are no more."""


def sample(
    opening: PerhapsStudentOptions,
    num_samples: int = 64,
    guidance: Sequence[float] | None = None,
    output: str = "samples",
    *,
    given: PosteriorOptions,
    noise: VersionedNoiseOptions,
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

    With --posterior it draws what a noised state may have been, p(x0 | x_t), by any teacher
    (exactly, in many steps) or by a student of PosteriorModule, and writes the states beside.

    Args:
        opening: the student.
        num_samples: how many samples.
        guidance: guidance scale gamma, inside the range the student was trained for; the run's
            evaluation_guidance if not given, 1 for a teacher alone and for posteriors. Several make
            a sweep with the same noise: a folder for each, and sweep.png.
        output: folder to write to; made if it does not exist.
        given: the noised states.
        noise: the noise and the classes.
        beside: what takes the place of the checkpoint's own, and who draws.
        files: how the folder is written.
        work: where it runs, and how much at once.
    """
    work.check_counts(num_samples)
    if starts_others(work.devices):
        start(work.devices)
        return
    with join_processes() as processes:
        device = pick_device(work.device, processes)
        student = opening.open_or_none(beside)
        teacher = ready(beside.teacher if student is None else student.to(device).teacher, device)
        states = given.read(teacher, noise)
        if states and noise.noise != "v1":
            raise ValueError("--noise is that of samples, not of --posterior: leave it out")
        usual = student.evaluation_guidance if student and not states else 1.0
        samplers = samplers_by_scale(guidance, usual, sampler_at(student, beside, states))
        draw = states or noise.draw(teacher)
        flat = not draws_pictures(teacher, device)
        is_sweep = len(samplers) > 1 and not flat
        if processes.first and is_sweep:
            claim_names(Path(output), SWEEP, "sample", ["sweep.png"])
        folders = [
            sample_folder_of(path, num_samples, sampler, draw, npz=files.npz or flat)
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
        what = "samples" if states is None else f"draws from {len(states.x)} posteriors"
        print(f"{num_samples} {what} at {at} in {output}")


def ready(teacher: object, device: torch.device) -> Teacher:
    """Return a teacher that draws, on the device and frozen."""
    assert isinstance(teacher, Teacher)  # `open_or_none` refuses others
    return teacher.to(device).eval().requires_grad_(False)


def samplers_by_scale(
    guidance: Sequence[float] | None, usual: float, at: SamplerAt
) -> list[Sampler]:
    """Return who draws at each guidance scale, ascending (Raises: ValueError without any)."""
    scales = sorted({usual} if guidance is None else set(guidance))
    if not scales:
        raise ValueError("expected at least one guidance scale, got none: --guidance 1.5")
    return [at(gamma) for gamma in scales]


def sample_folder_of(
    path: Path, count: int, sampler: Sampler, draw: IndexedDraw, *, npz: bool
) -> SampleFolder:
    """Return the folder of a sampler; that of posterior draws has a column for each state, and
    holds them.
    """
    about = sampler.facts() | draw.facts()
    if not isinstance(draw, NoisedStates):
        return SampleFolder(path, count, about, npz=npz)
    columns = len(draw.x) if 1 < len(draw.x) <= COLUMNS else None
    beside = {STATES: draw.to_npz()}
    return SampleFolder(path, count, about, npz=npz, columns=columns, beside=beside)


def places(output: Path, samplers: Sequence[Sampler]) -> list[Path]:
    """Return the folder of each sampler: the output itself, or one in it for each of several."""
    if len(samplers) == 1:
        return [output]
    return [output / f"guidance_{sampler.guidance:g}" for sampler in samplers]


def fill(
    folders: Sequence[SampleFolder],
    samplers: Sequence[Sampler],
    draw: IndexedDraw,
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
    from freeflow_lightning.sampling import plots  # noqa: PLC0415 (matplotlib: half a second that other samples do without)
    from freeflow_lightning.sampling.picture_rows import (  # noqa: PLC0415
        caption_classes,
        picture_rows,
    )

    scales = [sampler.guidance for sampler in samplers]
    rows = {
        f"guidance {gamma:g}": folder.first(12)
        for gamma, folder in zip(scales, folders, strict=True)
    }
    title = f"{samplers[0].name}: the same noise, column by column"
    drawn = folders[0].first(12)
    names = class_names(drawn.shape[1:], samplers[0].teacher.num_classes)
    captions = caption_classes(folders[0].first_classes(12), names)
    figure = picture_rows(rows, title, captions)
    publish(output, SWEEP, "sample", {"guidance": scales}, {"sweep.png": plots.png(figure)})


main = partial(run, sample, usage=USAGE)
