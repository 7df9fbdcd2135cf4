"""The further arguments that each family's networks take: positions, sizes, masks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from freeflow_lightning.teachers.diffusers.family import TEXT, Call, pass_condition


def repeat_numbers(call: Call, values: list[int]) -> Tensor:
    """Return the same numbers for every sample, float32 [B, len(values)]."""
    return torch.tensor(values, device=call.x.device, dtype=torch.float32).expand(len(call.x), -1)


def grid_ids(call: Call, axes: int) -> Tensor:
    """Row and column of each 2 x 2 patch in the second and third of `axes` columns, [H W / 4,
    axes].
    """
    h, w = call.size[0] // 2, call.size[1] // 2
    ids = torch.zeros(h, w, axes, device=call.x.device, dtype=torch.float32)
    ids[..., 1] += torch.arange(h, device=ids.device)[:, None]
    ids[..., 2] += torch.arange(w, device=ids.device)
    return ids.view(h * w, axes)


def text_length(call: Call) -> int:
    """Length of the text."""
    return call.condition[TEXT].shape[1]


def add_flux_ids(call: Call) -> dict[str, Any]:
    """Positions [tokens, 3]; the text stands at 0."""
    return pass_condition(call) | {
        "img_ids": grid_ids(call, 3),
        "txt_ids": torch.zeros(text_length(call), 3, device=call.x.device, dtype=torch.float32),
    }


def add_flux2_ids(call: Call) -> dict[str, Any]:
    """Positions [B, tokens, 4]: time, row, column, and the place in the text."""
    text = torch.zeros(text_length(call), 4, device=call.x.device, dtype=torch.float32)
    text[:, 3] += torch.arange(len(text), device=text.device)
    ids = {"img_ids": grid_ids(call, 4), "txt_ids": text}
    return pass_condition(call) | {
        name: table.expand(len(call.x), -1, -1) for name, table in ids.items()
    }


def add_chroma_mask(call: Call) -> dict[str, Any]:
    """Flux's positions; the text's mask is continued by ones for the image."""
    ones = call.x.new_ones(call.x.shape[:2])
    return add_flux_ids(call) | {
        "attention_mask": torch.cat([call.condition["attention_mask"].to(ones.dtype), ones], dim=1)
    }


def add_qwen_shapes(call: Call) -> dict[str, Any]:
    """Return the patch grid of every sample: frames, rows, columns."""
    return pass_condition(call) | {
        "img_shapes": [[(1, call.size[0] // 2, call.size[1] // 2)]] * len(call.x)
    }


def scale_sana_time(call: Call) -> dict[str, Any]:
    """Return the time in the config's own unit."""
    return pass_condition(call) | {"timestep": call.time * call.config["timestep_scale"]}


def add_cogview4_sizes(call: Call) -> dict[str, Any]:
    """Sizes in pixels, the picture uncropped; the network's time is the one before the scheduler's
    shift to noisier levels.
    """
    pixels = repeat_numbers(call, [8 * n for n in call.size])
    length = math.prod(call.size) / call.config["patch_size"] ** 2
    sigma, shift = call.time / 1000, cogview4_shift(call.scheduler, length)
    time = 1000 * sigma / (sigma + shift * (1 - sigma))
    sizes = {
        "original_size": pixels,
        "target_size": pixels,
        "crop_coords": torch.zeros_like(pixels),
    }
    return pass_condition(call) | sizes | {"timestep": time}


def cogview4_shift(scheduler: Mapping[str, Any], length: float) -> float:
    """Return the s in sigma = s tau / (s tau + 1 - tau) of CogView4's pipeline for `length` image
    tokens.
    """
    if not scheduler["use_dynamic_shifting"]:
        return float(scheduler["shift"])
    root = math.sqrt(length / scheduler.get("base_image_seq_len", 256))
    mu = root * scheduler.get("max_shift", 0.75) + scheduler.get("base_shift", 0.25)
    return mu if scheduler["time_shift_type"] == "linear" else math.exp(mu)


def add_ltx_sizes(call: Call) -> dict[str, Any]:
    """Return the latent's size, and the length of a latent element in seconds (8 frames, 25 a
    second) and pixels (32).
    """
    frames, height, width = call.size
    return pass_condition(call) | {
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (8 / 25, 32, 32),
    }


def list_zimage_captions(call: Call) -> dict[str, Any]:
    """Captions as a list without padding."""
    lengths = call.condition["cap_feats_mask"].sum(1).tolist()
    return {
        "cap_feats": [
            caption[:n] for caption, n in zip(call.condition["cap_feats"], lengths, strict=True)
        ]
    }


def move_hidream_layers(call: Call) -> dict[str, Any]:
    """Llama's layers stand before the batch."""
    return pass_condition(call) | {
        "encoder_hidden_states_llama3": call.condition["encoder_hidden_states_llama3"].transpose(
            0, 1
        )
    }


def add_hunyuan_end(call: Call) -> dict[str, Any]:
    """A mean-flow network is asked for its instantaneous velocity: it ends where it starts."""
    return pass_condition(call) | ({"timestep_r": call.time} if call.config["use_meanflow"] else {})


def add_pixart_sizes(call: Call) -> dict[str, Any]:
    """Size in pixels and aspect ratio, for the networks that take them."""
    if not call.config["use_additional_conditions"]:
        return pass_condition(call) | {
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}
        }
    sizes = repeat_numbers(call, [8 * n for n in call.size])
    return pass_condition(call) | {
        "added_cond_kwargs": {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}
    }


def add_unet_sizes(call: Call) -> dict[str, Any]:
    """SD1.5: the text alone. SDXL: the pooled text and the sizes in pixels, uncropped."""
    text = {TEXT: call.condition[TEXT]}
    if call.config["addition_embed_type"] != "text_time":
        return text
    height, width = (8 * n for n in call.size)
    sizes = repeat_numbers(call, [height, width, 0, 0, height, width])
    return text | {
        "added_cond_kwargs": {"text_embeds": call.condition["text_embeds"], "time_ids": sizes}
    }


def split_films(x: Tensor) -> list[Tensor]:
    """Z-Image takes a list of films of one frame, (C, 1, H, W) each."""
    return list(x.unsqueeze(2).unbind(0))


def stack_films(output: list[Tensor]) -> Tensor:
    """And returns one."""
    return torch.stack(output).squeeze(2)


def keep_norm(guided: Tensor, conditional: Tensor) -> Tensor:
    """Return the guided velocity scaled along its last axis to the conditional one's norm."""
    return guided * (conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
