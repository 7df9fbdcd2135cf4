"""How each family of diffusers networks is called and read: one row per class, in FAMILIES."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

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


class Layout(NamedTuple):
    """How a latent of a given size stands in a state: the sizes it needs, the state's shape, and
    back to a picture or film.
    """

    axes: str
    shape: Callable[[int, tuple[int, ...]], tuple[int, ...]]
    unpack: Callable[[Tensor, tuple[int, ...]], Tensor]


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


def image_shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """[C, *size]: pictures (C, H, W) and films (C, F, H, W)."""
    return (channels, *size)


def patches_shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens of 2 x 2 latent elements, [H W / 4, C]."""
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(
            f"expected an even latent_size, as this family works on patches of 2 x 2, got "
            f"{list(size)}"
        )
    return (height * width // 4, channels)


def unpack_patches(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, H W / 4, 4 C] tokens of 2 x 2 patches to [B, C, H, W].

    >>> unpack_patches(torch.arange(4.0).view(1, 1, 4), (2, 2))
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    h, w = size[0] // 2, size[1] // 2
    return (
        x.view(len(x), h, w, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, 2 * h, 2 * w)
    )


def voxels_shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """One token per latent element, [F H W, C]."""
    frames, height, width = size
    return (frames * height * width, channels)


def unpack_voxels(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, F H W, C] to [B, C, F, H, W]."""
    return x.transpose(1, 2).reshape(len(x), -1, *size)


LAYOUTS = {
    "image": Layout("height and width", image_shape, lambda x, size: x),
    "video": Layout("frames, height and width", image_shape, lambda x, size: x),
    "patches": Layout("height and width", patches_shape, unpack_patches),
    "voxels": Layout("frames, height and width", voxels_shape, unpack_voxels),
}


def passed(call: Call) -> dict[str, Any]:
    """The condition's tensors under their own names, nothing else."""
    return dict(call.condition)


def rows(call: Call, values: list[int]) -> Tensor:
    """The same numbers for every sample, float32 [B, len(values)]."""
    return torch.tensor(values, device=call.x.device, dtype=torch.float32).expand(len(call.x), -1)


def grid_ids(call: Call, axes: int) -> Tensor:
    """Row and column of each 2 x 2 patch in the second and third of `axes` columns, [H W / 4,
    axes].
    """
    h, w = call.size[0] // 2, call.size[1] // 2
    ids = torch.zeros(h, w, axes, device=call.x.device)
    ids[..., 1] += torch.arange(h, device=ids.device)[:, None]
    ids[..., 2] += torch.arange(w, device=ids.device)
    return ids.view(h * w, axes)


def tokens(call: Call) -> int:
    """Length of the text."""
    return call.condition[TEXT].shape[1]


def flux(call: Call) -> dict[str, Any]:
    """Positions [tokens, 3]; the text stands at 0."""
    return passed(call) | {
        "img_ids": grid_ids(call, 3),
        "txt_ids": torch.zeros(tokens(call), 3, device=call.x.device),
    }


def flux2(call: Call) -> dict[str, Any]:
    """Positions [B, tokens, 4]: time, row, column, and the place in the text."""
    text = torch.zeros(tokens(call), 4, device=call.x.device)
    text[:, 3] += torch.arange(len(text), device=text.device)
    ids = {"img_ids": grid_ids(call, 4), "txt_ids": text}
    return passed(call) | {name: table.expand(len(call.x), -1, -1) for name, table in ids.items()}


def chroma(call: Call) -> dict[str, Any]:
    """Flux's positions; the text's mask is continued by ones for the image."""
    ones = call.x.new_ones(call.x.shape[:2])
    return flux(call) | {
        "attention_mask": torch.cat([call.condition["attention_mask"].to(ones.dtype), ones], dim=1)
    }


def qwen(call: Call) -> dict[str, Any]:
    """The patch grid of every sample: frames, rows, columns."""
    return passed(call) | {
        "img_shapes": [[(1, call.size[0] // 2, call.size[1] // 2)]] * len(call.x)
    }


def sana(call: Call) -> dict[str, Any]:
    """The time in the config's own unit."""
    return passed(call) | {"timestep": call.time * call.config["timestep_scale"]}


def cogview4(call: Call) -> dict[str, Any]:
    """Sizes in pixels, the picture uncropped; the network's time is the one before the scheduler's
    shift to noisier levels.
    """
    pixels = rows(call, [8 * n for n in call.size])
    length = math.prod(call.size) / call.config["patch_size"] ** 2
    sigma, shift = call.time / 1000, cogview4_shift(call.scheduler, length)
    time = 1000 * sigma / (sigma + shift * (1 - sigma))
    sizes = {
        "original_size": pixels,
        "target_size": pixels,
        "crop_coords": torch.zeros_like(pixels),
    }
    return passed(call) | sizes | {"timestep": time}


def cogview4_shift(scheduler: Mapping[str, Any], length: float) -> float:
    """The s in sigma = s tau / (s tau + 1 - tau) of CogView4's pipeline for `length` image tokens."""
    if not scheduler["use_dynamic_shifting"]:
        return float(scheduler["shift"])
    root = math.sqrt(length / scheduler.get("base_image_seq_len", 256))
    mu = root * scheduler.get("max_shift", 0.75) + scheduler.get("base_shift", 0.25)
    return mu if scheduler["time_shift_type"] == "linear" else math.exp(mu)


def ltx(call: Call) -> dict[str, Any]:
    """The latent's size, and the length of a latent element in seconds (8 frames, 25 a second) and
    pixels (32).
    """
    frames, height, width = call.size
    return passed(call) | {
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (8 / 25, 32, 32),
    }


def zimage(call: Call) -> dict[str, Any]:
    """Captions as a list without padding."""
    lengths = call.condition["cap_feats_mask"].sum(1).tolist()
    return {
        "cap_feats": [
            caption[:n] for caption, n in zip(call.condition["cap_feats"], lengths, strict=True)
        ]
    }


def hidream(call: Call) -> dict[str, Any]:
    """Llama's layers stand before the batch."""
    return passed(call) | {
        "encoder_hidden_states_llama3": call.condition["encoder_hidden_states_llama3"].transpose(
            0, 1
        )
    }


def hunyuan_image(call: Call) -> dict[str, Any]:
    """A mean-flow network is asked for its instantaneous velocity: it ends where it starts."""
    return passed(call) | ({"timestep_r": call.time} if call.config["use_meanflow"] else {})


def pixart(call: Call) -> dict[str, Any]:
    """Size in pixels and aspect ratio, for the networks that take them."""
    if not call.config["use_additional_conditions"]:
        return passed(call) | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    sizes = rows(call, [8 * n for n in call.size])
    return passed(call) | {
        "added_cond_kwargs": {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}
    }


def unet(call: Call) -> dict[str, Any]:
    """SD1.5: the text alone. SDXL: the pooled text and the sizes in pixels, uncropped."""
    text = {TEXT: call.condition[TEXT]}
    if call.config["addition_embed_type"] != "text_time":
        return text
    height, width = (8 * n for n in call.size)
    sizes = rows(call, [height, width, 0, 0, height, width])
    return text | {
        "added_cond_kwargs": {"text_embeds": call.condition["text_embeds"], "time_ids": sizes}
    }


def as_list(x: Tensor) -> list[Tensor]:
    """Z-Image takes a list of films of one frame, (C, 1, H, W) each."""
    return list(x.unsqueeze(2).unbind(0))


def from_list(output: list[Tensor]) -> Tensor:
    """And returns one."""
    return torch.stack(output).squeeze(2)


def same(x: Any) -> Any:
    """States and outputs as they are."""
    return x


def keep_norm(guided: Tensor, conditional: Tensor) -> Tensor:
    """The guided velocity scaled along its last axis to the conditional one's norm."""
    return guided * (conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


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
    inputs: Callable[[Call], dict[str, Any]] = passed
    state: str = "hidden_states"
    timestep: str = "timestep"
    guidance_input: tuple[str, float] = ("guidance", 1.0)
    guidance_offset: float = 0.0
    rescale: Callable[[Tensor, Tensor], Tensor] | None = None
    pack: Callable[[Tensor], Any] = same
    unpack: Callable[[Any], Tensor] = same
    time_module: str | None = None
    needs_scheduler: bool = False

    def __post_init__(self) -> None:
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


UNIT, FLIPPED = (0.0, 1.0), (1.0, -1.0)
MASKED = {TEXT: Embedding(0, 2), MASK: Embedding(1, 3)}

FAMILIES: dict[str, Family] = {
    # flow matching, noise - data
    "SD3Transformer2DModel": Family(prompts={TEXT: Embedding(0, 1), POOLED: Embedding(2, 3)}),
    "FluxTransformer2DModel": Family(
        UNIT, layout="patches", prompts={TEXT: Embedding(0), POOLED: Embedding(1)}, inputs=flux
    ),
    "Flux2Transformer2DModel": Family(
        UNIT, layout="patches", prompts={TEXT: Embedding(0)}, inputs=flux2
    ),
    "QwenImageTransformer2DModel": Family(
        UNIT,
        layout="patches",
        prompts={TEXT: Embedding(0), f"{TEXT}_mask": Embedding(1)},
        inputs=qwen,
        rescale=keep_norm,
    ),
    "SanaTransformer2DModel": Family(prompts=MASKED, inputs=sana),
    "AuraFlowTransformer2DModel": Family(UNIT, prompts={TEXT: Embedding(0, 2)}),
    "WanTransformer3DModel": Family(layout="video", prompts={TEXT: Embedding(0, 1)}),
    "LTXVideoTransformer3DModel": Family(layout="voxels", prompts=MASKED, inputs=ltx),
    "CogView4Transformer2DModel": Family(
        prompts={TEXT: Embedding(0)}, pads_in_batch=True, inputs=cogview4, needs_scheduler=True
    ),
    "HunyuanImageTransformer2DModel": Family(
        prompts={
            TEXT: Embedding(0),
            MASK: Embedding(1),
            f"{TEXT}_2": Embedding(2),
            f"{MASK}_2": Embedding(3),
        },
        inputs=hunyuan_image,
        guidance_input=("guidance", 1000.0),
    ),
    "ChromaTransformer2DModel": Family(
        UNIT,
        layout="patches",
        prompts={TEXT: Embedding(0, 3), "attention_mask": Embedding(2, 5)},
        inputs=chroma,
        time_module="distilled_guidance_layer.out_proj",
    ),
    # flow matching, data - noise
    "Lumina2Transformer2DModel": Family(FLIPPED, +1, prompts=MASKED, rescale=keep_norm),
    "ZImageTransformer2DModel": Family(
        FLIPPED,
        +1,
        prompts={"cap_feats": Embedding(0, 1), "cap_feats_mask": Embedding(None)},
        inputs=zimage,
        state="x",
        timestep="t",
        guidance_offset=1.0,
        pack=as_list,
        unpack=from_list,
    ),
    "MochiTransformer3DModel": Family((1000.0, -1000.0), +1, layout="video", prompts=MASKED),
    "HiDreamImageTransformer2DModel": Family(
        sign=+1,
        prompts={
            f"{TEXT}_t5": Embedding(0, 1),
            f"{TEXT}_llama3": Embedding(2, 3, batch_axis=1),
            "pooled_embeds": Embedding(4, 5),
        },
        inputs=hidream,
        timestep="timesteps",
    ),
    # DDPM: epsilon or v, the time being the scheduler's index
    "DiTTransformer2DModel": Family(
        prediction="from_scheduler", needs_scheduler=True, classes="class_labels"
    ),
    "PixArtTransformer2DModel": Family(
        prediction="from_scheduler", needs_scheduler=True, prompts=MASKED, inputs=pixart
    ),
    "UNet2DConditionModel": Family(
        prediction="from_scheduler",
        needs_scheduler=True,
        prompts={TEXT: Embedding(0, 1), "text_embeds": Embedding(2, 3)},
        inputs=unet,
        state="sample",
    ),
}
"""By class name; times, signs and arguments as the pipelines of diffusers 0.42 use them."""
