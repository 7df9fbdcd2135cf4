"""The model card of an exported folder: what it is, figures, picture, how to use it, licence,
config.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from freeflow_lightning.flow import Trained
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.students.export.card_front import front_matter, teacher_words, trained_of
from freeflow_lightning.students.export.markdown import fenced
from freeflow_lightning.students.export.networks import find_foreign
from freeflow_lightning.students.export.templates import templates

PICTURE = "samples.png"
GRAPHS = {
    "flow_map.onnx": (
        "import numpy as np",
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession("flow_map.onnx")',
        'z = np.random.randn({shape}).astype("float32")',
        'inputs = {{"z": z, "gamma": np.full(4, {gamma:g}, "float32"){onnx_labels}}}',
        "(x,) = session.run(None, inputs)",
    ),
    "flow_map.pt2": (
        "import torch",
        "",
        'program = torch.export.load("flow_map.pt2").module()',
        "x = program(torch.randn({shape}), torch.full((4,), {gamma:g}), {labels})",
    ),
}
"""How a graph is run, by its file."""
PLAIN_INPUTS = 3
"""Inputs of a graph that the example gives: noise, gamma and labels."""
PAPER = "[Flow Map Distillation Without Data](https://arxiv.org/abs/2511.19428)"


def write_card(
    folder: Path,
    manifest: Mapping[str, Any],
    licence: str,
    place: str,
    figures: Sequence[str] = (),
    metrics: Mapping[str, float] = {},
) -> None:
    """Write README.md into an exported folder.

    Args:
        folder: with all its other files.
        manifest: of the folder.
        licence: of the teacher's weights, a name of the hub's list such as mit, or in words.
        place: what the examples name: the folder or the repository.
        figures: lines of Markdown about how good the samples are.
        metrics: the scores among them by name, for the hub's own table.
    """
    config = manifest.get("config")
    settings = yaml.safe_dump(config, sort_keys=False).rstrip() if config else ""
    card = (
        templates("freeflow_lightning.students.export")
        .get_template("card.md")
        .render(
            front=front_matter(folder, manifest, licence, place, metrics),
            teacher=teacher_words(config),
            paper=PAPER,
            picture=PICTURE,
            has_picture=(folder / PICTURE).is_file(),
            samplers=trained_of(manifest).pairs.samplers,
            facts=_facts(manifest),
            figures=figures,
            use=_use(folder, manifest, place),
            licence=licence,
            config=fenced(settings, "yaml") if config else [],
        )
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    conditions, (low, high) = manifest["conditions"], manifest["guidance_range"]
    what = {"classes": f"{conditions.get('num_classes')} classes", "none": "nothing"}.get(
        conditions["kind"], conditions.get("what")
    )
    average, steps = manifest.get("average"), manifest.get("steps")
    return [
        f"samples {manifest['sample_shape']}{_shown(manifest)}",
        f"conditioned on {what}",
        f"trained for guidance {low:g}" + (f" to {high:g}" if low < high else ""),
        f"samples in {_steps(trained_of(manifest))}",
        f"weights: {average or 'as they were given'}" + (f", after {steps} steps" if steps else ""),
        *manifest["left_out"],
    ]


def _steps(trained: Trained) -> str:
    """In words, for example "1, 2, 4 steps (renoise)"."""
    ways = ", ".join(trained.pairs.samplers)
    if not ways:
        return "1 step"
    if trained.starts is None:
        return f"1 step or more ({ways})"
    known = trained.numbers(range(1, len(trained.starts) + 1))
    return f"{', '.join(map(str, known))} steps ({ways})"


def _shown(manifest: Mapping[str, Any]) -> str:
    decoder = manifest["decoder"]
    if decoder is None:
        if len(manifest["sample_shape"]) == 3 and not manifest["left_out"]:
            return ", pictures in [-1, 1]"
        return ""
    return {
        "vae": f", decoded by {decoder.get('vae')}",
        "pipeline": ", decoded by the pipeline's VAE",
    }.get(decoder["kind"], "")


def _use(folder: Path, manifest: Mapping[str, Any], place: str) -> list[str]:
    conditions, (low, high) = manifest["conditions"], manifest["guidance_range"]
    gamma = (low + high) / 2
    own = find_foreign(manifest["network"])
    trust = f", trust={own[0].class_path!r}" if own else ""
    prompts = ', conditions=Prompts("embeddings")' if conditions["kind"] == "prompts" else ""
    lines = ["```python", "from freeflow_lightning import FlowMap"]
    if prompts:
        lines.append(
            "from freeflow_lightning.teachers import Prompts  # freeflow embed writes the folder"
        )
    lines += [
        "",
        f"flow_map = FlowMap.from_pretrained({place!r}{prompts}{trust})",
        f"x = flow_map.sample(16, guidance={gamma:g}, seed=0{_few_steps(manifest)})",
        "pictures = flow_map.teacher.decode(x)  # in [-1, 1]",
        "```",
    ]
    if (folder / "flow_map_pipeline.py").is_file():
        lines += _pipeline_code(folder, manifest, place, gamma)
    elif "call" in manifest:
        call = ", ".join(f"{name}={_number(value)}" for name, value in manifest["call"].items())
        lines += ["", *_stock(folder, place, call, manifest.get("folded_guidance"))]
    for name, code in GRAPHS.items():
        if (folder / name).is_file():
            lines += _graph_lines(name, code, manifest, gamma)
    return lines


def _pipeline_code(
    folder: Path, manifest: Mapping[str, Any], place: str, gamma: float
) -> list[str]:
    """Return an example that draws with diffusers and the folder's own code."""
    has_classes = manifest["conditions"].get("num_classes")
    labels = "class_labels=[0, 1, 2, 3], " if has_classes else "num_images=4, "
    return [
        "",
        "With diffusers alone (the folder's two Python files are run: read them first):",
        "",
        "```python",
        "from diffusers import DiffusionPipeline",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({place!r}, trust_remote_code=True)",
        f"pipe({labels}guidance_scale={gamma:g}{_pipeline_steps(folder)}).images[0]"
        f".save('sample.png')",
        "```",
    ]


def _graph_lines(
    name: str, code: Sequence[str], manifest: Mapping[str, Any], gamma: float
) -> list[str]:
    """Return what a graph takes, and an example where that is not too much."""
    way = _steps_of_graph(manifest)
    given = _inputs(manifest["conditions"], way)
    lines = ["", f"`{name}`: {', '.join(given)} to sample in {way.name}, any batch size."]
    if len(given) > PLAIN_INPUTS:
        return lines
    return lines + _graph_code(code, manifest, gamma)


def _graph_code(code: Sequence[str], manifest: Mapping[str, Any], gamma: float) -> list[str]:
    """Return an example that runs a graph on four samples."""
    has_labels = manifest["conditions"]["kind"] == "classes"
    words = {
        "shape": ", ".join(map(str, [4, *manifest["sample_shape"]])),
        "gamma": gamma,
        "labels": "torch.tensor([0, 1, 2, 3])" if has_labels else "None",
        "onnx_labels": ', "labels": np.arange(4)' if has_labels else "",
    }
    return ["", "```python", *(line.format(**words) for line in code), "```"]


def _stock(folder: Path, place: str, call: str, gamma: float | None) -> list[str]:
    index = json.loads((folder / "model_index.json").read_text())
    parts = {
        name: part for name, part in index.items() if isinstance(part, list) and name.isidentifier()
    }
    absent = [name for name, part in parts.items() if part[0] is None]
    given = "".join(f", {name}=..." for name in absent)
    fixed = f" Guidance {gamma:g} is folded into its weights." if gamma is not None else ""
    return [
        f"With diffusers alone: its own pipeline, and none of this package's code.{fixed}",
        "",
        "```python",
        "from diffusers import DiffusionPipeline",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({place!r}{given})",
        f'pipe("a red fox in the snow", {call}).images[0].save("sample.png")',
        "```",
    ]


def _number(value: float | list[float]) -> str:
    """As one writes it in Python."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _few_steps(manifest: Mapping[str, Any]) -> str:
    """Return the arguments of four steps or the nearest below, for a student that was trained for
    them.
    """
    trained = trained_of(manifest)
    steps = trained.numbers(range(1, 5))[-1]
    if steps == 1:
        return ""
    sampler = trained.sampler
    return f", steps={steps}" if sampler == "chain" else f", steps={steps}, sampler={sampler!r}"


def _pipeline_steps(folder: Path) -> str:
    """Return the argument of as many steps as the folder's pipeline takes by default, if more than
    one.
    """
    steps = json.loads((folder / "model_index.json").read_text()).get("num_inference_steps", 1)
    return f", num_inference_steps={steps}" if steps > 1 else ""


def _steps_of_graph(manifest: Mapping[str, Any]) -> Jumps:
    """Return the steps of the folder's graphs."""
    about = manifest.get("graph") or {}
    return Jumps(about.get("steps", 1), about.get("sampler", "chain"), about.get("noise share"))


def _inputs(conditions: Mapping[str, Any], way: Jumps) -> list[str]:
    named = {"classes": ["labels [B]"], "none": []}.get(
        conditions["kind"], ["the embeddings by name"]
    )
    noise = [f"noise [B, {way.noises}, ...]"] if way.noises else []
    return ["z [B, ...]", "gamma [B]", *named, *noise]
