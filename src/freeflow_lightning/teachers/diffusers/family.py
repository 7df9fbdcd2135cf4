"""What is said of one family of diffusers networks: its convention and its arguments."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.teachers.diffusers.layouts import LAYOUTS

TEXT, MASK, POOLED = "encoder_hidden_states", "encoder_attention_mask", "pooled_projections"


class Call(NamedTuple):
    """One evaluation, for a row's `inputs`: state [B, ...], time argument [B], condition, latent
    size, both configs.
    """

    x: Tensor
    time: Tensor
    condition: dict[str, Tensor]
    size: tuple[int, ...]
    config: Mapping[str, Any]
    scheduler: Mapping[str, Any]


class Embedding(NamedTuple):
    """Where a condition stands among what the pipeline's encode_prompt returns.

    Attributes:
        prompt: position of the prompt's tensor; None for the mask of texts that come as a list,
            each of its own length.
        empty: position of the tensor of "no prompt"; None to encode the empty prompt like any
            other.
        batch_axis: axis of the batch in what the encoder returns; it is stored first.
    """

    prompt: int | None
    empty: int | None = None
    batch_axis: int = 0


def pass_condition(call: Call) -> dict[str, Any]:
    """Return the condition's tensors under their own names, nothing else."""
    return dict(call.condition)


def keep(x: Any) -> Any:
    """States and outputs as they are."""
    return x


@dataclass(frozen=True)
class Family:
    """A family of networks: its convention and its arguments. The first four say the essentials for
    a class of one's own.

    Args:
        time: (a, b): the network is given a + b t, t = 1 being the prior.
        sign: u = sign * output: -1 where the output is noise - data, +1 where it is data - noise.
        prediction: flow, or from_scheduler: epsilon, v or x0 in DDPM's convention, as the
            pipeline's scheduler says.
        layout: of a state: image, video, patches (of 2 x 2, packed in tokens) or voxels (packed in
            tokens).
        prompts: condition by argument name, and where encode_prompt returns it; for `freeflow
            embed`.
        pads_in_batch: texts are padded to the longest of a batch and no mask says where they end.
        classes: argument that takes class labels, for class-conditional networks.
        inputs: condition and size to the network's further arguments.
        state: argument of the state.
        timestep: argument of the time.
        guidance_input: argument and factor of an embedded guidance scale, used where the config has
            guidance_embeds.
        guidance_offset: gamma = offset + the pipeline's guidance scale.
        rescale: what the pipeline does to a guided velocity, given the conditional one; None where
            guidance is linear.
        pack: state to what the network takes.
        unpack: what it returns to a tensor.
        time_module: where the time embedding is not found by name.
        needs_scheduler: the convention depends on the scheduler's settings.
    """

    time: tuple[float, float] = (0.0, 1000.0)
    sign: int = -1
    prediction: Literal["flow", "from_scheduler"] = "flow"
    layout: Literal["image", "video", "patches", "voxels"] = "image"
    prompts: Mapping[str, Embedding] = field(default_factory=dict)
    pads_in_batch: bool = False
    classes: str | None = None
    inputs: Callable[[Call], dict[str, Any]] = pass_condition
    state: str = "hidden_states"
    timestep: str = "timestep"
    guidance_input: tuple[str, float] = ("guidance", 1.0)
    guidance_offset: float = 0.0
    rescale: Callable[[Tensor, Tensor], Tensor] | None = None
    pack: Callable[[Tensor], Any] = keep
    unpack: Callable[[Any], Tensor] = keep
    time_module: str | None = None
    needs_scheduler: bool = False

    def __post_init__(self) -> None:
        check_counts(-1, sign=self.sign)
        check_numbers(-math.inf, guidance_offset=self.guidance_offset)
        check_numbers(0, without_low=True, guidance_input=self.guidance_input[1])
        for number in self.time:
            check_numbers(-math.inf, time=number)
        if (
            self.sign not in (-1, 1)
            or len(self.time) != 2
            or self.time[1] == 0
            or self.layout not in LAYOUTS
        ):
            raise ValueError(
                "expected time (a, b) with b not 0, sign 1 or -1 and a layout of "
                f"{sorted(LAYOUTS)}, got {self.time}, {self.sign} and {self.layout!r}"
            )
