"""What the hub reads of a model card: licence, base model, tags, scores."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

from freeflow_lightning.flow import Pairs, Trained

UNKNOWN = "unknown: ask"
PAPERS = {"freeflow": "2511.19428"}
"""arXiv numbers by tag."""
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def front_matter(
    folder: Path,
    manifest: Mapping[str, Any],
    licence: str,
    place: str,
    metrics: Mapping[str, float],
) -> str:
    """Return the YAML at the head of a card.

    Args:
        folder: with all its files.
        manifest: of the folder.
        licence: a name of the hub's list, or words.
        place: the folder or the repository.
        metrics: scores by name.
    """
    listed = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence)
    named = {"license": licence} if listed else {"license": "other", "license_name": licence}
    about: dict[str, Any] = {"license": "unknown"} if licence == UNKNOWN else named
    if base := base_model(manifest.get("config")):
        about |= {"base_model": base, "base_model_relation": "finetune"}
    about["library_name"] = (
        "diffusers" if (folder / "model_index.json").is_file() else "freeflow-lightning"
    )
    task = task_of(manifest)
    if task:
        about["pipeline_tag"] = task
    kind = "few-step" if trained_of(manifest).pairs.samplers else "one-step"
    papers = [f"arxiv:{number}" for number in PAPERS.values()]
    about["tags"] = ["flow-map", kind, "distillation", "freeflow", *papers]
    if (folder / "app.py").is_file():
        about |= {"sdk": "gradio", "app_file": "app.py", "title": "A one-step student"}
    if metrics:
        about["model-index"] = eval_results(Path(place).name, task, metrics)
    return yaml.safe_dump(about, sort_keys=False).rstrip()


def eval_results(name: str, task: str, metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the scores as the hub's table takes them.

    >>> eval_results("m", "", {"FID": 2.0})[0]["results"][0]["metrics"]
    [{'type': 'fid', 'value': 2.0, 'name': 'FID'}]
    """
    results = [
        EvalResult(
            task_type=task or "other",
            dataset_type="other",
            dataset_name="see the card",
            metric_type=metric.lower().replace(" ", "_"),
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    index: list[dict[str, Any]] = eval_results_to_model_index(name, results)
    return index


def task_of(manifest: Mapping[str, Any]) -> str:
    """Return the hub's name of what the student does; empty for samples that are no pictures."""
    if len(manifest["sample_shape"]) != 3 and not manifest["decoder"]:
        return ""
    prompts = manifest["conditions"]["kind"] == "prompts"
    return "text-to-image" if prompts else "unconditional-image-generation"


def base_model(config: Any) -> str | None:
    """Return the hub repository that the teacher's weights come from, where the config names one.

    >>> base_model({"init_args": {"teacher": {"init_args": {"repo_id": "me/sit"}}}})
    'me/sit'
    """
    teacher = ((config or {}).get("init_args") or {}).get("teacher") or {}
    arguments = teacher.get("init_args") or {} if isinstance(teacher, Mapping) else {}
    for name in ("repo_id", "model"):
        place = arguments.get(name)
        if isinstance(place, str) and REPOSITORY.fullmatch(place) and not Path(place).exists():
            return place
    return None


def trained_of(manifest: Mapping[str, Any]) -> Trained:
    """Return what the maps of the student were trained for."""
    starts = manifest.get("starts")
    pairs = Pairs(manifest.get("pairs") or Pairs.PRIOR_TO_ANY)
    return Trained(pairs, None if starts is None else tuple(starts))


def teacher_words(config: Any) -> str:
    """Return what the teacher is called: its file, its repository or its class; empty where nothing
    says it.
    """
    teacher = ((config or {}).get("init_args") or {}).get("teacher") or {}
    arguments = teacher.get("init_args") or {}
    name = (
        arguments.get("filename")
        or arguments.get("model")
        or arguments.get("checkpoint")
        or teacher.get("class_path")
    )
    return name if isinstance(name, str) else ""
