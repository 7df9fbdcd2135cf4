"""Reading a diffusers pipeline's files: which network, its weights (safetensors, strictly), its
scheduler's settings.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from freeflow_lightning.teachers.reading.hub import hub_file

log = logging.getLogger(__name__)
NETWORKS = ("transformer", "unet")


@dataclass(frozen=True)
class PipelineFiles:
    """Where a pipeline's network is.

    Attributes:
        model: folder or repository.
        class_name: of the network.
        subfolder: of the network; None where the folder is the network's own.
        revision: of the repository.
        index: model_index.json; empty where there is only a network.
    """

    model: str
    class_name: str
    subfolder: str | None
    revision: str | None
    index: dict[str, Any]


def read_config(model: str, file: str, revision: str | None) -> dict[str, Any]:
    """Return a JSON file of a folder or a hub repository (Raises: FileNotFoundError,
    ValueError).
    """
    folder = Path(model)
    path = folder / file if folder.is_dir() else hub_file(model, file, revision=revision)
    if not path.is_file():
        raise FileNotFoundError(f"no {file} in {model}")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def read_pipeline(
    model: str | Path, subfolder: str | None = None, revision: str | None = None
) -> PipelineFiles:
    """Find the network of a pipeline, or a network by itself.

    Raises:
        FileNotFoundError: no such model, or one without a network.
        ValueError: a pipeline with two networks, one for high and one for low noise (Wan 2.2 A14B).
    """
    model = str(model)
    try:
        index = read_config(model, "model_index.json", revision)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            raise FileNotFoundError(
                f"{model} is no folder, and the hub cannot be reached. On a machine with a "
                f"network run hf download {model} --local-dir FOLDER, and give the folder as the "
                "model"
            ) from error
        index = {}
    parts = {
        name: part[1]
        for name, part in index.items()
        if isinstance(part, list) and part[0] is not None
    }
    if "transformer_2" in parts and subfolder is None:
        raise ValueError(
            f"{model} has two networks, transformer for high noise and transformer_2 for low: one "
            "teacher holds one. Choose it with subfolder=..., and know that it is right on its "
            "own side of the boundary only"
        )
    where = subfolder or next((name for name in NETWORKS if name in parts), None)
    try:
        config = read_config(model, f"{where}/config.json" if where else "config.json", revision)
        class_name = config["_class_name"]
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(
            f"no network in {model}{f'/{where}' if where else ''}: expected a folder or "
            "repository that save_pretrained of a diffusers pipeline or network wrote, "
            f"model_index.json with transformer/ or unet/, or config.json ({error})"
        ) from error
    return PipelineFiles(model, class_name, where, revision, index)


def load_network(files: PipelineFiles, dtype: torch.dtype, variant: str | None = None) -> Any:
    """Return the network with its weights, in eval mode (Raises: ValueError where they do not fit;
    what is left over is said).
    """
    import diffusers  # noqa: PLC0415 (slow to import)

    kind = getattr(diffusers, files.class_name, None)
    if kind is None:
        raise ValueError(
            f"diffusers {diffusers.__version__} has no {files.class_name}: install a version that "
            f"has it"
        )
    try:
        net, report = kind.from_pretrained(
            files.model,
            subfolder=files.subfolder,
            revision=files.revision,
            variant=variant,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the weights of {files.class_name} in {files.model} cannot be loaded: {error}"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        wrong = [*report["missing_keys"], *report["mismatched_keys"]]
        raise ValueError(
            f"the weights in {files.model} do not fit {files.class_name}: missing or of other "
            f"shape: {wrong[:6]}"
        )
    if report["unexpected_keys"]:
        log.warning(
            "weights in %s that %s has no place for: %s",
            files.model,
            files.class_name,
            report["unexpected_keys"][:6],
        )
    return net.eval()


def load_scheduler_config(files: PipelineFiles) -> dict[str, Any]:
    """Return the scheduler's settings: betas, what the network predicts, shifts."""
    try:
        return read_config(files.model, "scheduler/scheduler_config.json", files.revision)
    except FileNotFoundError as error:
        raise ValueError(
            f"what {files.class_name} means depends on its scheduler, and {files.model} has no "
            f"scheduler/scheduler_config.json: give the folder of the whole pipeline ({error})"
        ) from error
