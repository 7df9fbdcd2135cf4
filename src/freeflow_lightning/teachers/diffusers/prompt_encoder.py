"""A pipeline's own text encoders, and what its network takes of what they return."""

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from freeflow_lightning.teachers.diffusers.family import Embedding, Family
from freeflow_lightning.teachers.diffusers.files import PipelineFiles

NOT_ENCODERS = ("transformer", "transformer_2", "unet", "vae", "safety_checker", "image_encoder")


def load_encoders(files: PipelineFiles, dtype: torch.dtype, variant: str | None) -> Any:
    """Return the pipeline without its large networks."""
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


class PromptEncoder:
    """A pipeline's encoders, for what a family's networks take of a prompt.

    Args:
        pipe: the pipeline.
        family: of its network.
        lines: all prompts; where nothing but the longest text of a batch says where a text ends,
            the longest of all goes with each batch, and every text has its length.
    """

    def __init__(self, pipe: Any, family: Family, lines: Sequence[str]) -> None:
        self.pipe = pipe
        self.family = family
        self.beside: list[str] = []
        if family.pads_in_batch:
            self.beside = [max(lines, key=lambda line: len(pipe.tokenizer(line).input_ids))]

    def shards(
        self,
        lines: Sequence[str],
        batch_size: int,
        shard_size: int,
        advance: Callable[[int], None] = lambda prompts: None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the embeddings of `shard_size` prompts at a time, on the CPU; `advance` is told how
        many more are encoded.
        """
        for start in range(0, len(lines), shard_size):
            shard = lines[start : start + shard_size]
            parts = []
            for i in range(0, len(shard), batch_size):
                batch = shard[i : i + batch_size]
                parts.append(self.encode(batch))
                advance(len(batch))
            yield {name: join_padded([part[name] for part in parts]) for name in parts[0]}

    def empty(self) -> dict[str, Tensor]:
        """Return what the network takes for "no prompt": the pipeline's own where it has one, else
        the empty text.
        """
        return self.encode([""], empty=True)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, empty: bool = False) -> dict[str, Tensor]:
        """Return what the network takes for the prompts, the batch first, on the CPU."""
        returned = self.pipe.encode_prompt(
            **find_arguments(self.pipe, [*prompts, *self.beside], empty)
        )
        found: dict[str, Tensor] = {}
        lengths = None
        for name, place in self.family.prompts.items():
            position = place.empty if empty and place.empty is not None else place.prompt
            if position is None:
                first = next(iter(found.values()))
                found[name] = (torch.arange(first.shape[1]) < torch.tensor(lengths)[:, None]).long()
            elif position < len(returned):  # SD1.5 has no pooled text
                value = returned[position]
                if isinstance(value, list):
                    lengths = [len(text) for text in value]
                    value = pad_sequence(value, batch_first=True)
                found[name] = batch_first(value, place, found)
        return {name: tensor[: len(prompts)] for name, tensor in found.items()}


def batch_first(value: Tensor | None, place: Embedding, found: dict[str, Tensor]) -> Tensor:
    """With the batch first, on the CPU; a mask that the pipeline left out, as all tokens count, is
    ones.
    """
    if value is None:
        return torch.ones(next(iter(found.values())).shape[:2], dtype=torch.long)
    return value.movedim(place.batch_axis, 0).contiguous().cpu()


def find_arguments(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
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
    rows = [row for part in parts for row in part]
    if len({part.shape[1] for part in parts}) > 1:
        return pad_sequence(rows, batch_first=True)
    return torch.stack(rows)
