"""freeflow embed: a pipeline's own text encoders, run once over a file of prompts; training then
needs none of them.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import torch

from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.progress import progress_bar, starter
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers.diffusers.files import read_pipeline
from freeflow_lightning.teachers.diffusers.prompt_encoder import PromptEncoder, load_encoders
from freeflow_lightning.teachers.diffusers.teacher import find_family
from freeflow_lightning.teachers.prompt_files import refuse_filled, write_prompts
from freeflow_lightning.training.atomic_write import write_folder
from freeflow_lightning.training.output_folder import claim_folder


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
    family = find_family(files.class_name)
    if not family.prompts:
        raise ValueError(f"{files.class_name} takes no prompts: the teacher needs no embeddings")
    place = claim_folder(Path(output))
    refuse_filled(Path(output))
    pipe = load_encoders(files, getattr(torch, dtype), variant).to(pick_device(where.device))
    encoder = PromptEncoder(pipe, family, lines)
    about = {
        "model": model,
        "revision": revision,
        "network": files.class_name,
        "pipeline": type(pipe).__name__,
        "dtype": dtype,
    }
    with write_folder(place) as folder, progress_bar(True) as bar:
        advance = starter(bar, 1)("prompts", len(lines))
        shards = encoder.shards(lines, batch_size, shard_size, advance)
        index = write_prompts(folder, shards, encoder.empty(), about)
        text = "".join(f"{line}\n" for line in lines)
        (folder / "prompts.txt").write_text(text, encoding="utf-8")
        refuse_filled(Path(output))  # what has come there meanwhile
    size = sum(path.stat().st_size for path in Path(output).glob("*.safetensors"))
    print(
        f"{index['count']} prompts in {output}: {', '.join(index['tensors'])}; {size / 1e6:.1f} MB"
    )


def read_lines(path: str) -> list[str]:
    """Return the prompts of a file."""
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


main = partial(run, embed)
