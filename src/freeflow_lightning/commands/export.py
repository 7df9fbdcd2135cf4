"""freeflow export: a student as a folder that stands alone: weights, model card, diffusers
pipeline, ONNX; and to the hub.
"""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from freeflow_lightning.commands.options import StudentOptions, TeacherOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.evaluation import TITLES
from freeflow_lightning.evaluation.compare_averages import compare_averages, show_averages
from freeflow_lightning.nets import Adapter, ScalarConditioned, merge
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.students.export import (
    PICTURE,
    UNKNOWN,
    foreign,
    push_folder,
    seal,
    write_card,
)
from freeflow_lightning.students.export.graphs import (
    VAE,
    Example,
    OneStep,
    export_onnx,
    export_torch,
)
from freeflow_lightning.students.export.markdown import plain
from freeflow_lightning.students.export.pipeline import add_pipeline
from freeflow_lightning.students.export.text_pipeline import add_stock_pipeline
from freeflow_lightning.students.export.write_exported import write_exported
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import is_exported, open_student, pick_device
from freeflow_lightning.teachers import DiffusersTeacher, LatentDecoder, LatentSpace, SiTTeacher
from freeflow_lightning.training.training_checkpoint import find_checkpoint


def export(
    opening: StudentOptions,
    output: str | None = None,
    compare: bool = False,
    num_samples: int = 2000,
    pipeline: bool = False,
    onnx: bool = False,
    pt2: bool = False,
    decode: bool = False,
    guidance: float | None = None,
    parts: bool = True,
    license: str = UNKNOWN,
    evaluation: str | None = None,
    push: str | None = None,
    private: bool = False,
    overwrite: bool = False,
    network_arguments: dict[str, Any] | None = None,
    device: str = "auto",
    *,
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
        pipeline: let diffusers open the folder: DiffusionPipeline.from_pretrained(FOLDER) makes
            pictures in one step. A student of pictures with or without classes takes its code along
            (trust_remote_code=True); one of a diffusers network becomes its family's own pipeline,
            with --guidance folded into the weights.
        onnx: add flow_map.onnx: z, gamma and labels to samples, any batch size; checked with
            onnxruntime.
        pt2: add flow_map.pt2, the same as a program of torch.export.
        decode: let both end with the VAE's pictures in [-1, 1] rather than with latents.
        guidance: gamma of the picture, of --compare, and of what --pipeline folds in or takes by
            default; the run's evaluation_guidance if not given.
        parts: take along the text encoders, tokenizers and VAE of a diffusers student's pipeline,
            or a SiT student's VAE.
        license: of the teacher's weights, which holds for the student's: a name of the hub's list
            (mit, apache-2.0) or words.
        evaluation: evaluation.json for the card; RUN/evaluation/evaluation.json if it is there and
            measured these weights.
        push: repository (owner/name) to upload the folder to; needs `hf auth login` or HF_TOKEN.
        private: make a new repository private.
        overwrite: replace the exported student that the folder holds.
        network_arguments: of a network of your own: its constructor's arguments, where the config
            does not name them.
        device: of --compare and the picture: cpu, cuda, cuda:1, mps; auto takes an accelerator if
            there is one.
        beside: what takes the place of the checkpoint's own.
    """
    if output is None and not compare:
        raise ValueError("--output is missing: the folder to write to (or give --compare alone)")
    path, run_folder = find_student(opening.checkpoint)
    student = replace(opening, checkpoint=path).open(beside.overrides)
    gamma = student.evaluation_guidance if guidance is None else guidance
    student.check_guidance(gamma)
    if compare:
        if isinstance(student.teacher, LatentSpace):
            raise ValueError(
                f"{opening.checkpoint} holds one student and no teacher: --compare wants a "
                f"training checkpoint"
            )
        names = [*student.about["averages"], "raw"]
        every = ((name, open_student(path, name, overrides=beside.overrides)) for name in names)
        show_averages(
            compare_averages(every, num_samples, gamma, pick_device(device)), num_samples, gamma
        )
    if output is None:
        return
    figures = figures_of(student, run_folder, evaluation)
    with write_exported(Path(output), overwrite) as folder:
        manifest = student.write_to(folder, network_arguments)
        alone = stands_alone(student)
        if pipeline:
            manifest = with_pipeline(folder, manifest, student, alone, gamma, parts)
        for name, write in (("flow_map.onnx", export_onnx), ("flow_map.pt2", export_torch)):
            if {"flow_map.onnx": onnx, "flow_map.pt2": pt2}[name]:
                graph, example = graph_of(student, alone, decode)
                print(f"{name}: {write(graph, example, folder / name).words()}")
        if reason := student.to(pick_device(device)).draw_picture(folder / PICTURE, gamma):
            print(f"no picture: {reason}")
        write_card(folder, manifest, license, push or output, figures)
        seal(folder, manifest)
        FlowMap.from_pretrained(
            folder, trust=own_class(manifest)
        )  # what was added has not broken it
    report(Path(output), student, license)
    if push:
        print(f"uploaded: {push_folder(Path(output), push, private=private)}")


def find_student(checkpoint: str) -> tuple[str, Path | None]:
    """The path to open, and the run's folder if it belongs to one."""
    if is_exported(checkpoint):
        return checkpoint, None
    path = find_checkpoint(checkpoint)
    home = path.resolve().parent.parent
    return str(path) if Path(checkpoint).is_dir() else checkpoint, home if (
        home / "checkpoints"
    ).is_dir() else None


def stands_alone(student: FlowMap) -> ScalarConditioned:
    """The student's network, an adapter merged."""
    network = student.network
    assert isinstance(network, ScalarConditioned)  # what every constructor of FlowMap has made
    return merge(network) if isinstance(network.backbone, Adapter) else network


def with_pipeline(
    folder: Path,
    manifest: dict[str, Any],
    student: FlowMap,
    alone: ScalarConditioned,
    gamma: float,
    parts: bool,
) -> dict[str, Any]:
    """The folder made into a diffusers pipeline, of the kind that fits the student."""
    teacher = student.teacher
    if isinstance(teacher, DiffusersTeacher):
        return add_stock_pipeline(folder, manifest, alone, teacher, gamma, parts)
    if manifest["decoder"] and manifest["decoder"]["kind"] == "pipeline":
        raise ValueError(
            "an exported student of a diffusers network has left its pipeline behind: export the "
            "training checkpoint"
        )
    decoder = teacher.vae if parts and isinstance(teacher, SiTTeacher | LatentSpace) else None
    return add_pipeline(
        folder, manifest, decoder if isinstance(decoder, LatentDecoder) else None, gamma
    )


def graph_of(student: FlowMap, alone: ScalarConditioned, decode: bool) -> tuple[OneStep, Example]:
    """The one-step map in float32 on the CPU, and inputs to trace and check it with."""
    teacher = student.teacher
    network = copy.deepcopy(alone).float().cpu().eval()
    decoder = teacher.vae if isinstance(teacher, SiTTeacher | LatentSpace) else None
    picture = None
    if decode:
        if not isinstance(decoder, LatentDecoder):
            raise ValueError(
                "--decode: this student's samples are not latents of a VAE; leave the option out"
            )
        scale, shift = torch.as_tensor(decoder.scale), torch.as_tensor(decoder.shift)
        picture = VAE(decoder.network().cpu(), scale.float(), shift.float())
    z, condition = Draw().noise(teacher, torch.arange(4))
    low, high = student.guidance_range
    return OneStep(network, picture).eval(), Example(z, torch.linspace(low, high, 4), condition)


def figures_of(student: FlowMap, run: Path | None, given: str | None) -> list[str]:
    """What is known of the quality of these very weights, as Markdown: from an evaluation, or else
    the run's report.
    """
    if given is not None and not Path(given).is_file():
        raise FileNotFoundError(
            f"no evaluation at {given}: freeflow evaluate writes evaluation.json"
        )
    places = (
        [Path(given)]
        if given
        else [folder / "evaluation" / "evaluation.json" for folder in (run, Path()) if folder]
    )
    for path in places:
        if path.is_file() and (
            figures := from_evaluation(path, weights_hash(student.network)[:16], given is not None)
        ):
            return figures
    reported = (
        run is not None
        and (run / "report.md").is_file()
        and student.about.get("average") in _first_average(student)
    )
    return from_report(run / "report.md") if reported and run is not None else []


def _first_average(student: FlowMap) -> list[str]:
    """What a run's report has measured."""
    names = student.about.get("averages") or ["raw"]
    return names[:1]


def from_evaluation(path: Path, weights: str, demanded: bool) -> list[str]:
    """The scores of evaluation.json; none if it measured other weights, which is an error where it
    was asked for.
    """
    try:
        result = json.loads(path.read_text())
        scores, facts = result["scores"], result["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by freeflow evaluate ({error})") from error
    if facts.get("weights") != weights:
        if demanded:
            raise ValueError(
                f"{path} measured other weights than these: evaluate the same checkpoint and "
                f"--average"
            )
        print(f"{path} measured other weights than these: left out of the card")
        return []
    rows = [
        f"| {name} | {scores[key]['value']:.4g} | {meaning} |"
        for key, (name, meaning) in TITLES.items()
        if key in scores
    ]
    made = [
        f"{facts.get('samples')} samples",
        f"guidance {facts.get('guidance')}",
        f"{facts.get('evaluator')}",
    ]
    return [
        "| | | |",
        "| --- | ---: | --- |",
        *rows,
        "",
        plain(", ".join(made) + f"; compared with {json.dumps(facts.get('reference'))}."),
    ]


def from_report(path: Path) -> list[str]:
    """The table of a run's report.md, with the paragraph before it."""
    lines = path.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("| sampler")), None)
    if first is None:
        return []
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    start = next((i for i in range(first - 2, -1, -1) if not lines[i]), -1) + 1
    return lines[start:last]


def own_class(manifest: dict[str, Any]) -> str | None:
    """The class path of a network of the user's own, which this process has imported already."""
    mine = foreign(manifest["network"])
    return mine[0].class_path if mine else None


def report(folder: Path, student: FlowMap, licence: str) -> None:
    """What was written, on the screen."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    print(
        f"{folder}: {student.about.get('average') or 'the student'}, {len(files)} files; its "
        f"weights come back bit for bit"
    )
    for path in files:
        print(f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes")
    if licence == UNKNOWN:
        print(
            "the card says that the licence is unknown: give the teacher's with --license before "
            "you publish it"
        )


main = partial(run, export)
