"""freeflow export: a student as a folder that stands alone: weights, model card, diffusers
pipeline, ONNX; and to the hub.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from freeflow_lightning.commands.options import (
    DeviceOptions,
    JumpOptions,
    Options,
    StudentOptions,
    TeacherOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.tasks.export import export as write
from freeflow_lightning.commands.views.averages import show_averages
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.compare_averages import compare_averages
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.students.export import UNKNOWN
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import is_exported, open_student, pick_device
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.training_checkpoint import find_checkpoint


@dataclass(frozen=True, kw_only=True)
class FormOptions(Options):
    """what the folder holds beside the weights

    Args:
        pipeline: let diffusers open the folder: DiffusionPipeline.from_pretrained(FOLDER) makes
            pictures. A student of pictures with or without classes takes its code along
            (trust_remote_code=True); one of a diffusers network becomes its family's own pipeline,
            with --guidance and --steps folded into the weights.
        onnx: add flow_map.onnx: z, gamma and labels to samples in --steps, any batch size; checked
            with onnxruntime.
        pt2: add flow_map.pt2, the same as a program of torch.export.
        decode: let both end with the VAE's pictures in [-1, 1] rather than with latents.
        parts: take along the text encoders, tokenizers and VAE of a diffusers student's pipeline,
            or a SiT student's VAE.
        network_arguments: of a network of your own: its constructor's arguments, where the config
            does not name them.
        space: add app.py, the page of `freeflow demo`; --push then makes a Space of the hub.
    """

    pipeline: bool = False
    onnx: bool = False
    pt2: bool = False
    decode: bool = False
    parts: bool = True
    network_arguments: dict[str, Any] | None = None
    space: bool = False


@dataclass(frozen=True, kw_only=True)
class CardOptions(Options):
    """the model card and the hub

    Args:
        license: of the teacher's weights, which holds for the student's: a name of the hub's list
            (mit, apache-2.0) or words.
        evaluation: evaluation.json for the card; RUN/evaluation/evaluation.json if it is there and
            measured these weights.
        push: repository (owner/name) to upload the folder to; needs `hf auth login` or HF_TOKEN.
        private: make a new repository private.
    """

    license: str = UNKNOWN
    evaluation: str | None = None
    push: str | None = None
    private: bool = False


def export(
    opening: StudentOptions,
    output: str | None = None,
    compare: bool = False,
    num_samples: int = 2000,
    guidance: float | None = None,
    overwrite: bool = False,
    *,
    forms: FormOptions,
    card: CardOptions,
    way: JumpOptions,
    where: DeviceOptions,
    beside: TeacherOptions,
) -> None:
    """Write a student into a folder that needs neither its teacher nor its run, and upload it if
    you like.

    The folder holds the weights (safetensors), freeflow.json (network, shapes, classes, guidance
    range, decoder, config and the SHA-256 of every file), a model card and a picture.
    FlowMap.from_pretrained(FOLDER), `freeflow sample --checkpoint FOLDER` and `freeflow evaluate`
    read it, and refuse it if a file is missing or changed. Whatever is exported is run again and
    compared with the student before the folder appears.

    Args:
        opening: the student.
        output: folder to write to; not needed with --compare alone.
        compare: print FID to the teacher and endpoint error of every average first.
        num_samples: samples on either side of --compare.
        guidance: gamma of the picture, of --compare, and of what --pipeline folds in or takes by
            default; the run's evaluation_guidance if not given.
        overwrite: replace the exported student that the folder holds.
        forms: what the folder holds.
        card: the model card and the hub.
        way: the steps of the picture, of --compare, of ONNX and torch.export, and of what
            --pipeline folds in or takes by default.
        where: the device of --compare and the picture.
        beside: what takes the place of the checkpoint's own.
    """
    if output is None and not compare:
        raise ValueError("--output is missing: the folder to write to (or give --compare alone)")
    path, run_folder = find_student(opening.checkpoint)
    student = replace(opening, checkpoint=path).open(beside.overrides)
    if compare:
        compare_all(student, path, num_samples, guidance, way.jumps, where, beside)
    if output is None:
        return
    made = write(
        student.to(pick_device(where.device)),
        output,
        guidance=guidance,
        overwrite=overwrite,
        **vars(forms),
        **vars(card),
        **vars(way),
        run=run_folder,
    )
    print(made)


def compare_all(
    student: FlowMap,
    path: str,
    num_samples: int,
    guidance: float | None,
    jumps: Jumps,
    where: DeviceOptions,
    beside: TeacherOptions,
) -> None:
    """Print the figures of every average (Raises: ValueError without a teacher)."""
    if isinstance(student.teacher, LatentSpace):
        raise ValueError(
            f"{path} holds one student and no teacher: --compare wants a training checkpoint"
        )
    gamma = student.evaluation_guidance if guidance is None else guidance
    student.check_guidance(gamma)
    jumps = jumps.at_trained_times(student.trained)
    names = [*student.about["averages"], "raw"]
    device = pick_device(where.device)
    with progress_bar(True) as bar:
        every = (
            (name, open_student(path, name, overrides=beside.overrides))
            for name in bar.track(names, description="averages")
        )
        rows = compare_averages(every, num_samples, gamma, device, jumps)
    show_averages(rows, num_samples, gamma)


def find_student(checkpoint: str) -> tuple[str, Path | None]:
    """Return the path to open, and the run's folder if it belongs to one."""
    if is_exported(checkpoint):
        return checkpoint, None
    path = find_checkpoint(checkpoint)
    home = path.resolve().parent.parent
    given = str(path) if Path(checkpoint).is_dir() else checkpoint
    return given, home if (home / "checkpoints").is_dir() else None


main = partial(run, export)
