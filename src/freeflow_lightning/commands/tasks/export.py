"""A student as a folder that stands alone: weights, model card, diffusers pipeline, ONNX; and to the
hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freeflow_lightning.commands.tasks.export_forms import Forms
from freeflow_lightning.commands.views import export as view
from freeflow_lightning.commands.views.page import in_base64
from freeflow_lightning.commands.views.progress import parts_of, progress_bar
from freeflow_lightning.commands.views.tables import Table, tables_html
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.students.draw_samples import draw_samples
from freeflow_lightning.students.expect_flow_map import expect_flow_map
from freeflow_lightning.students.export import (
    PICTURE,
    UNKNOWN,
    find_foreign,
    push_folder,
    seal,
    write_card,
)
from freeflow_lightning.students.export.write_exported import write_exported
from freeflow_lightning.students.flow_map import FlowMap

UNLICENSED = (
    "the card says that the licence is unknown: give the teacher's with --license before you "
    "publish it"
)


@dataclass(frozen=True)
class Exported:
    """An exported folder.

    Args:
        folder: where it is.
        manifest: what freeflow.json says.
        average: the weights that were taken.
        checked: how far each graph is from the student, in words.
        notes: what is to be said of it.
        url: of the hub's commit, if it was uploaded.
    """

    folder: Path
    manifest: Mapping[str, Any]
    average: str
    checked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    url: str | None = None

    def __str__(self) -> str:
        return view.export_text(self.folder, self.average, self.checked, self.notes)

    def _repr_html_(self) -> str:
        rows = [line.rsplit("  ", 1) for line in view.list_files(self.folder)]
        table = Table(f"{self.folder}: {self.average}", ["file", "size"], rows)
        picture = self.folder / PICTURE
        pictures = [in_base64(picture.read_bytes())] if picture.is_file() else []
        return tables_html([table], "; ".join([*self.checked, *self.notes]), pictures)


def export(
    flow_map: FlowMap,
    output: str | Path,
    guidance: float | None = None,
    *,
    overwrite: bool = False,
    pipeline: bool = False,
    onnx: bool = False,
    pt2: bool = False,
    decode: bool = False,
    parts: bool = True,
    network_arguments: Mapping[str, Any] | None = None,
    space: bool = False,
    license: str = UNKNOWN,
    evaluation: str | Path | None = None,
    push: str | None = None,
    private: bool = False,
    steps: int = 1,
    sampler: SamplerName = "chain",
    noise_share: float | None = None,
    run: str | Path | None = None,
) -> Exported:
    """Write a student into a folder that needs neither its teacher nor its run, and upload it if
    you like.

    Whatever is exported is run again and compared with the student before the folder appears.

    Args:
        flow_map: the student.
        output: folder to write to; made if it does not exist.
        guidance: of the picture, and of what a pipeline folds in or takes by default; the student's
            evaluation_guidance if not given.
        overwrite: replace the exported student that the folder holds.
        pipeline: let diffusers open the folder.
        onnx: add flow_map.onnx, checked with onnxruntime.
        pt2: add flow_map.pt2, a program of torch.export.
        decode: let both end with the VAE's pictures rather than with latents.
        parts: take along text encoders, tokenizers and VAE.
        network_arguments: constructor arguments of a network of your own.
        space: add app.py, the page of `freeflow demo`; `push` then makes a Space of the hub.
        license: of the teacher's weights, which holds for the student's.
        evaluation: evaluation.json for the card.
        push: repository (owner/name) to upload the folder to.
        private: make a new repository private.
        steps: of the picture, the graphs, and what a pipeline takes by default.
        sampler: how more than one are joined: chain, renoise or gamma.
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 to 1.
        run: the run's folder, whose evaluation or report fills the card.

    Raises:
        ValueError: a folder that holds something else, a part that a folder cannot hold, or a hub
            that refuses.
        FileNotFoundError: no such evaluation.
    """
    expect_flow_map(flow_map)
    gamma = flow_map.evaluation_guidance if guidance is None else guidance
    flow_map.check_guidance(gamma)
    jumps = Jumps(steps, sampler, noise_share).at_trained_times(flow_map.trained)
    forms = Forms(pipeline, onnx, pt2, decode, parts, network_arguments, space)
    figures = view.figures_of(flow_map, None if run is None else Path(run), evaluation)
    notes = [UNLICENSED] if license == UNKNOWN else []
    target = Path(output)
    with write_exported(target, overwrite) as folder, progress_bar(True) as bar:
        begin = parts_of(bar, forms.written + 2)
        manifest, checked = forms.write_into(folder, flow_map, gamma, jumps, begin)
        begin("picture")
        if reason := draw_samples(flow_map, folder / PICTURE, gamma, jumps=jumps):
            notes.append(f"no picture: {reason}")
        begin("reading it again")
        write_card(folder, manifest, license, push or str(output), *figures)
        manifest = seal(folder, manifest)
        FlowMap.from_pretrained(folder, trust=own_class(manifest))  # nothing added has broken it
    url = push_folder(target, push, private=private, is_space=space) if push else None
    if url:
        notes.append(f"uploaded: {url}")
    average = flow_map.about.get("average") or "the student"
    return Exported(target, manifest, average, tuple(checked), tuple(notes), url)


def own_class(manifest: Mapping[str, Any]) -> str | None:
    """Return the class path of a network of the user's own, which this process has imported
    already.
    """
    mine = find_foreign(manifest["network"])
    return mine[0].class_path if mine else None
