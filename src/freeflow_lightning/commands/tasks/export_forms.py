"""The forms that an exported student takes: a folder, a diffusers pipeline, ONNX, torch.export."""

import copy
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from freeflow_lightning.commands.tasks import space_app
from freeflow_lightning.nets import Adapter, ScalarConditioned, merge
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.jumps import Jumps, fresh_noise
from freeflow_lightning.students.export import find_foreign
from freeflow_lightning.students.export.graphs import export_onnx, export_torch
from freeflow_lightning.students.export.pipeline import add_pipeline
from freeflow_lightning.students.export.sample_graph import VAE, Example, SampleGraph
from freeflow_lightning.students.export.text_pipeline import add_stock_pipeline
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.teachers import DiffusersTeacher, LatentDecoder, LatentSpace, SiTTeacher

APP = "app.py"
ONNX, PT2 = "flow_map.onnx", "flow_map.pt2"


class Forms(NamedTuple):
    """What an exported folder holds beside the weights: see `commands.tasks.export.export`."""

    pipeline: bool = False
    onnx: bool = False
    pt2: bool = False
    decode: bool = False
    parts: bool = True
    network_arguments: Mapping[str, Any] | None = None
    space: bool = False

    @property
    def written(self) -> int:
        """How many forms are written: the folder itself, and those that are asked for."""
        return 1 + self.pipeline + self.onnx + self.pt2

    def write_into(
        self,
        folder: Path,
        student: FlowMap,
        gamma: float,
        jumps: Jumps,
        begin: Callable[[str], None],
    ) -> tuple[dict[str, Any], list[str]]:
        """Write the student and every form of it; `begin` is told the name of each.

        Returns:
            What freeflow.json says, and how far each graph is from the student, in words.
        """
        begin("weights")
        manifest = student.write_to(folder, self.network_arguments)
        if self.space:
            write_space(folder, manifest)
        alone = stands_alone(student)
        checked = []
        if self.pipeline:
            begin("pipeline")
            manifest = with_pipeline(folder, manifest, student, alone, gamma, self.parts, jumps)
        if self.onnx or self.pt2:
            graph, example = graph_of(student, alone, self.decode, jumps)
            manifest = manifest | {"graph": {"steps": 1} | jumps.facts()}
        if self.onnx:
            begin(ONNX)
            checked.append(f"{ONNX}: {export_onnx(graph, example, folder / ONNX).words()}")
        if self.pt2:
            begin(PT2)
            checked.append(f"{PT2}: {export_torch(graph, example, folder / PT2).words()}")
        return manifest, checked


def write_space(folder: Path, manifest: dict[str, Any]) -> None:
    """Write app.py, the page of `freeflow demo`, and what a Space of the hub installs for it.

    Raises:
        ValueError: a network of the user's own, which nobody else can import.
    """
    if mine := find_foreign(manifest["network"]):
        raise ValueError(
            f"--space: a Space cannot import {mine[0].class_path}, a network of your own; leave "
            f"the option out"
        )
    shutil.copyfile(space_app.__file__, folder / APP)
    needed = f"freeflow-lightning[demo]=={version('freeflow-lightning')}\n"
    (folder / "requirements.txt").write_text(needed)


def stands_alone(student: FlowMap) -> ScalarConditioned:
    """Return the student's network, an adapter merged."""
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
    jumps: Jumps,
) -> dict[str, Any]:
    """Return the folder made into a diffusers pipeline, of the kind that fits the student."""
    teacher = student.teacher
    if isinstance(teacher, DiffusersTeacher):
        return add_stock_pipeline(folder, manifest, alone, teacher, gamma, parts, jumps)
    if manifest["decoder"] and manifest["decoder"]["kind"] == "pipeline":
        raise ValueError(
            "an exported student of a diffusers network has left its pipeline behind: export the "
            "training checkpoint"
        )
    decoder = teacher.vae if parts and isinstance(teacher, SiTTeacher | LatentSpace) else None
    latents = decoder if isinstance(decoder, LatentDecoder) else None
    return add_pipeline(folder, manifest, latents, gamma, jumps)


def graph_of(
    student: FlowMap, alone: ScalarConditioned, decode: bool, jumps: Jumps
) -> tuple[SampleGraph, Example]:
    """Return the student in float32 on the CPU, and inputs to trace and check it with."""
    teacher = student.teacher
    network = copy.deepcopy(alone).float().cpu().eval()
    z, condition = Draw().noise(teacher, torch.arange(4))
    low, high = student.guidance_range
    noise = None
    if jumps.noises:
        noise = torch.stack([fresh_noise(z, k) for k in range(jumps.noises)], 1)
    picture = decoder_of(student) if decode else None
    example = Example(z, torch.linspace(low, high, 4), condition, noise)
    return SampleGraph(network, picture, jumps).eval(), example


def decoder_of(student: FlowMap) -> VAE:
    """Return the VAE of a student of latents as a graph can hold it (Raises: ValueError without
    one).
    """
    teacher = student.teacher
    decoder = teacher.vae if isinstance(teacher, SiTTeacher | LatentSpace) else None
    if not isinstance(decoder, LatentDecoder):
        raise ValueError(
            "--decode: this student's samples are not latents of a VAE; leave the option out"
        )
    scale, shift = torch.as_tensor(decoder.scale), torch.as_tensor(decoder.shift)
    return VAE(decoder.network().cpu(), scale.float(), shift.float())
