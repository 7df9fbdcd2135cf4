"""freeflow embed: a pipeline's own text encoders, run once over a file of prompts; training then
needs none of them.
"""

import importlib.util
import inspect
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers.diffusers.family import Embedding, Family
from freeflow_lightning.teachers.diffusers.files import PipelineFiles, read_pipeline
from freeflow_lightning.teachers.diffusers.teacher import known_family
from freeflow_lightning.teachers.prompt_files import refuse_filled, write_prompts
from freeflow_lightning.training.atomic_write import write_folder
from freeflow_lightning.training.output_folder import claim_folder

log = logging.getLogger(__name__)
NOT_ENCODERS = ("transformer", "transformer_2", "unet", "vae", "safety_checker", "image_encoder")


def embed(
    model: str,
    prompts: str,
    output: str = "embeddings",
    batch_size: int = 16,
    shard_size: int = 1024,
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
    revision: str | None = None,
    variant: str | None = None,
    *,
    where: DeviceOptions,
) -> None:
    """Encode prompts once with the text encoders of a diffusers pipeline, for a teacher with
    conditions: Prompts.

    Neither the denoising network nor the VAE is loaded. Writes safetensors shards, the empty
    prompt's embedding once (guidance needs it), a copy of the prompts, and an index.json. Give the
    folder to the teacher as Prompts with folder.

    Args:
        model: folder of a diffusers pipeline, or the name of its hub repository.
        prompts: text file, one prompt a line; empty lines are left out.
        output: folder to write to, which appears when all is encoded; it must not hold anything
            yet.
        batch_size: prompts per run of the encoders.
        shard_size: prompts per file.
        dtype: of the encoders and of the embeddings.
        revision: of the repository.
        variant: of the weight files, for example fp16.
        where: the device.
    """
    lines = read_lines(prompts)
    if batch_size < 1 or shard_size < 1:
        raise ValueError(
            f"expected batch_size and shard_size of at least 1, got {batch_size} and {shard_size}"
        )
    files = read_pipeline(model, None, revision)
    family = known_family(files.class_name)
    if not family.prompts:
        raise ValueError(f"{files.class_name} takes no prompts: the teacher needs no embeddings")
    place = claim_folder(Path(output))
    refuse_filled(Path(output))
    pipe = load_encoders(files, getattr(torch, dtype), variant).to(pick_device(where.device))
    about = {
        "model": model,
        "revision": revision,
        "network": files.class_name,
        "pipeline": type(pipe).__name__,
        "dtype": dtype,
    }
    beside = (
        [max(lines, key=lambda line: len(pipe.tokenizer(line).input_ids))]
        if family.pads_in_batch
        else []
    )
    with torch.no_grad(), write_folder(place) as folder:
        shards = encoded_shards(pipe, family, lines, batch_size, shard_size, beside)
        index = write_prompts(folder, shards, encode(pipe, family, [""], beside, empty=True), about)
        (folder / "prompts.txt").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
        refuse_filled(Path(output))  # what has come there meanwhile
    size = sum(path.stat().st_size for path in Path(output).glob("*.safetensors"))
    print(
        f"{index['count']} prompts in {output}: {', '.join(index['tensors'])}; {size / 1e6:.1f} MB"
    )


def read_lines(path: str) -> list[str]:
    """The prompts of a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no file of prompts at {path}: expected a text file with one prompt a line"
        )
    lines = [
        line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    if not lines:
        raise ValueError(f"{path} has no prompts: expected one a line")
    return lines


def load_encoders(files: PipelineFiles, dtype: torch.dtype, variant: str | None) -> Any:
    """The pipeline without its large networks."""
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError(
            "the text encoders need the library transformers: pip install "
            "'freeflow-lightning[text]'"
        )
    from diffusers import DiffusionPipeline  # noqa: PLC0415 (slow to import)

    if not files.index:
        raise ValueError(
            f"{files.model} is a network without its pipeline: give the folder or repository with "
            f"model_index.json"
        )
    without = {name: None for name in NOT_ENCODERS if name in files.index}
    try:
        return DiffusionPipeline.from_pretrained(
            files.model,
            revision=files.revision,
            variant=variant,
            torch_dtype=dtype,
            use_safetensors=True,
            **without,
        )
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"the text encoders of {files.model} cannot be loaded: {error}") from error


def encoded_shards(
    pipe: Any,
    family: Family,
    prompts: list[str],
    batch_size: int,
    shard_size: int,
    beside: list[str],
) -> Iterator[dict[str, Tensor]]:
    """The embeddings of `shard_size` prompts at a time, on the CPU."""
    for start in range(0, len(prompts), shard_size):
        shard = prompts[start : start + shard_size]
        parts = [
            encode(pipe, family, shard[i : i + batch_size], beside)
            for i in range(0, len(shard), batch_size)
        ]
        yield {name: join_padded([part[name] for part in parts]) for name in parts[0]}
        log.info("%d of %d prompts", start + len(shard), len(prompts))


def encode(
    pipe: Any,
    family: Family,
    prompts: list[str],
    beside: Sequence[str] = (),
    *,
    empty: bool = False,
) -> dict[str, Tensor]:
    """What the network takes for the prompts, the batch first, on the CPU.

    Args:
        pipe: the pipeline.
        family: of its network.
        prompts: texts.
        beside: texts that go through the encoders with them and are left out: the longest of all
            gives each its length.
        empty: take the pipeline's "no prompt" instead, where it has one of its own.
    """
    returned = pipe.encode_prompt(**arguments(pipe, [*prompts, *beside], empty))
    found: dict[str, Tensor] = {}
    lengths = None
    for name, place in family.prompts.items():
        position = place.empty if empty and place.empty is not None else place.prompt
        if position is None:
            first = next(iter(found.values()))
            found[name] = (torch.arange(first.shape[1]) < torch.tensor(lengths)[:, None]).long()
        elif position < len(returned):  # SD1.5 has no pooled text
            value = returned[position]
            if isinstance(value, list):
                lengths = [len(text) for text in value]
                value = pad_sequence(value, batch_first=True)
            found[name] = stored(value, place, found)
    return {name: tensor[: len(prompts)] for name, tensor in found.items()}


def stored(value: Tensor | None, place: Embedding, found: dict[str, Tensor]) -> Tensor:
    """With the batch first, on the CPU; a mask that the pipeline left out, as all tokens count, is
    ones.
    """
    if value is None:
        return torch.ones(next(iter(found.values())).shape[:2], dtype=torch.long)
    return value.movedim(place.batch_axis, 0).contiguous().cpu()


def arguments(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    """Arguments of the pipeline's encode_prompt, its settings being those with which its __call__
    would ask it.
    """
    call = inspect.signature(pipe.__call__).parameters
    given = {
        "prompt": prompts,
        "device": pipe._execution_device,
        "do_classifier_free_guidance": guided,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
        "batch_size": len(prompts),
    }
    chosen = {}
    for name, parameter in inspect.signature(pipe.encode_prompt).parameters.items():
        if name in given:
            chosen[name] = given[name]
        elif name in call and call[name].default not in (None, inspect.Parameter.empty):
            chosen[name] = call[name].default
        elif parameter.default is inspect.Parameter.empty:
            chosen[name] = None
    return chosen


def join_padded(parts: list[Tensor]) -> Tensor:
    """Concatenated along the batch; texts of several lengths end in zeros."""
    longest = max(part.shape[1] for part in parts)
    rows = [row for part in parts for row in part]
    return (
        pad_sequence(rows, batch_first=True)
        if longest != min(part.shape[1] for part in parts)
        else torch.stack(rows)
    )


main = partial(run, embed)
