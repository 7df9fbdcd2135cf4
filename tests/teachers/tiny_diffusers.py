"""Tiny random networks of every diffusers family, with the pipeline that samples them and conditions that fit."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TEXT, WIDTH = 5, 32


def embedded(
    width: int = WIDTH, length: int = TEXT, **more: Callable[[int], Tensor]
) -> Callable[[int], dict[str, Tensor]]:
    """n text embeddings of the given width, and further tensors."""

    def draw(n: int) -> dict[str, Tensor]:
        return {"encoder_hidden_states": torch.randn(n, length, width)} | {
            name: make(n) for name, make in more.items()
        }

    return draw


def vector(width: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, width)


def mask(n: int) -> Tensor:
    """Texts of different lengths: the last two tokens of every second one are padding."""
    ones = torch.ones(n, TEXT, dtype=torch.long)
    ones[1::2, -2:] = 0
    return ones


@dataclass
class Tiny:
    """A network's class and config, the pipeline that samples it, and how that is called with embeddings.

    Attributes:
        call: argument of the pipeline: key of the condition; negative_... is added for guidance by two calls.
        size: of the latent.
        scale: pixels per latent element.
        guidance: argument of the pipeline's guidance scale.
        extra: further arguments of the pipeline's constructor, as a function.
        arguments: further arguments of its call.
        attributes: of the pipeline, to be set.
    """

    net: str
    config: dict[str, Any]
    pipeline: str
    condition: Callable[[int], dict[str, Tensor]]
    call: dict[str, str]
    size: tuple[int, ...] = (8, 8)
    scale: int = 8
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    guidance: str = "guidance_scale"
    extra: Callable[[], dict[str, Any]] = dict
    arguments: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    def network(self, seed: int = 0) -> Any:
        """With weights that are a function of the seed, nowhere zero."""
        import diffusers

        torch.manual_seed(seed)
        net = getattr(diffusers, self.net)(**self.config)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        return net.eval()

    def pipe(self, net: Any) -> Any:
        """The pipeline around the network: no text encoder, no VAE."""
        import diffusers

        kind = getattr(diffusers, self.pipeline)
        parts = {name: None for name in list(inspect.signature(kind.__init__).parameters)[1:]}
        parts = {name: value for name, value in parts.items() if name not in SETTINGS}
        parts["unet" if "unet" in parts else "transformer"] = net
        parts["scheduler"] = getattr(diffusers, self.scheduler)(**self.scheduler_config)
        made = kind(**(parts | self.extra()))
        made.set_progress_bar_config(disable=True)
        for name, value in self.attributes.items():
            setattr(made, name, value)
        return made

    def save(self, folder: Any, seed: int = 0) -> Any:
        """Write the pipeline as a user has it; returns the network."""
        net = self.network(seed)
        self.pipe(net).save_pretrained(folder)
        return net


SETTINGS = {
    *(
        "force_zeros_for_empty_prompt",
        "add_watermarker",
        "requires_safety_checker",
        "boundary_ratio",
        "expand_timesteps",
    ),
    "is_distilled",
}
EMBEDS = {"prompt_embeds": "encoder_hidden_states"}
MASKED = EMBEDS | {"prompt_attention_mask": "encoder_attention_mask"}
POOLED = EMBEDS | {"pooled_prompt_embeds": "pooled_projections"}


def cfg() -> dict[str, Any]:
    from diffusers import ClassifierFreeGuidance

    return {"guider": ClassifierFreeGuidance(guidance_scale=3.0)}


def unsafe() -> dict[str, Any]:
    return {"requires_safety_checker": False}


def captions(n: int) -> dict[str, Tensor]:
    return {"cap_feats": torch.randn(n, TEXT, 16), "cap_feats_mask": mask(n)}


def hidream_text(n: int) -> dict[str, Tensor]:
    return {
        "encoder_hidden_states_t5": torch.randn(n, TEXT, WIDTH),
        "encoder_hidden_states_llama3": torch.randn(n, 2, TEXT, WIDTH),
        "pooled_embeds": torch.randn(n, 16),
    }


SMALL = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4}
PACKED = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
}
SD = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
}
SD_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
DIT_BETAS = {
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "clip_sample": False,
    "timestep_spacing": "trailing",
}

TINY: dict[str, Tiny] = {
    "sd3": Tiny(
        "SD3Transformer2DModel",
        SMALL
        | {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "joint_attention_dim": WIDTH,
        }
        | {"caption_projection_dim": 32, "pooled_projection_dim": 16, "pos_embed_max_size": 16},
        "StableDiffusion3Pipeline",
        embedded(pooled_projections=vector(16)),
        POOLED,
        scheduler_config={"shift": 3.0},
    ),
    "flux": Tiny(
        "FluxTransformer2DModel",
        PACKED
        | {
            "patch_size": 1,
            "in_channels": 16,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": 16,
        }
        | {"guidance_embeds": True, "axes_dims_rope": (4, 4, 8)},
        "FluxPipeline",
        embedded(pooled_projections=vector(16)),
        POOLED,
        scheduler_config={"use_dynamic_shifting": True},
    ),
    "flux schnell": Tiny(
        "FluxTransformer2DModel",
        PACKED
        | {
            "patch_size": 1,
            "in_channels": 16,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": 16,
        }
        | {"guidance_embeds": False, "axes_dims_rope": (4, 4, 8)},
        "FluxPipeline",
        embedded(pooled_projections=vector(16)),
        POOLED,
        guidance="true_cfg_scale",
    ),
    "flux2": Tiny(
        "Flux2Transformer2DModel",
        PACKED
        | {
            "patch_size": 1,
            "in_channels": 16,
            "joint_attention_dim": WIDTH,
            "timestep_guidance_channels": 32,
        }
        | {"axes_dims_rope": (4, 4, 4, 4)},
        "Flux2Pipeline",
        embedded(),
        EMBEDS,
        scheduler_config={"use_dynamic_shifting": True},
    ),
    "qwen": Tiny(
        "QwenImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
        }
        | {
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "guidance_embeds": False,
            "axes_dims_rope": (4, 4, 8),
        },
        "QwenImagePipeline",
        embedded(encoder_hidden_states_mask=mask),
        EMBEDS | {"prompt_embeds_mask": "encoder_hidden_states_mask"},
        scheduler_config={"use_dynamic_shifting": True, "shift_terminal": 0.02},
        guidance="true_cfg_scale",
    ),
    "sana": Tiny(
        "SanaTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
        }
        | {
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 8,
        }
        | {"mlp_ratio": 2.5, "sample_size": 8, "patch_size": 1, "timestep_scale": 0.5},
        "SanaPipeline",
        embedded(8, encoder_attention_mask=mask),
        MASKED,
        scale=32,
        scheduler_config={"shift": 3.0},
        arguments={"use_resolution_binning": False, "negative_prompt": None},
    ),
    "lumina2": Tiny(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
        }
        | {
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 2,
            "axes_dim_rope": (4, 4, 4),
        }
        | {"axes_lens": (32, 32, 32), "cap_feat_dim": 16},
        "Lumina2Pipeline",
        embedded(16, encoder_attention_mask=lambda n: mask(n).bool()),
        MASKED,
    ),
    "auraflow": Tiny(
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
        }
        | {
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": WIDTH,
            "caption_projection_dim": 32,
        }
        | {"out_channels": 4, "pos_embed_max_size": 256},
        "AuraFlowPipeline",
        embedded(),
        EMBEDS,
        scheduler_config={"shift": 1.73},
        arguments={
            f"{sign}prompt_attention_mask": torch.ones(2, TEXT) for sign in ("", "negative_")
        },
    ),
    "wan": Tiny(
        "WanTransformer3DModel",
        {
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
        }
        | {"text_dim": 16, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32},
        "WanPipeline",
        embedded(16),
        EMBEDS,
        size=(2, 8, 8),
        scheduler_config={"shift": 3.0},
        arguments={"num_frames": 5},
    ),
    "ltx": Tiny(
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 8,
            "out_channels": 8,
            "patch_size": 1,
            "patch_size_t": 1,
            "num_attention_heads": 4,
        }
        | {
            "attention_head_dim": 8,
            "cross_attention_dim": 32,
            "num_layers": 1,
            "caption_channels": 16,
        },
        "LTXPipeline",
        embedded(16, encoder_attention_mask=mask),
        MASKED,
        size=(2, 4, 4),
        scale=32,
        scheduler_config={"use_dynamic_shifting": True, "shift_terminal": 0.1},
        arguments={"num_frames": 9},
    ),
    "cogview4": Tiny(
        "CogView4Transformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 4,
        }
        | {
            "num_attention_heads": 4,
            "text_embed_dim": WIDTH,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "sample_size": 8,
        },
        "CogView4Pipeline",
        embedded(),
        EMBEDS,
        scheduler_config={"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ),
    "zimage": Tiny(
        "ZImageTransformer2DModel",
        {
            "all_patch_size": (2,),
            "all_f_patch_size": (1,),
            "in_channels": 4,
            "dim": 32,
            "n_layers": 1,
            "n_refiner_layers": 1,
        }
        | {
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 16,
            "axes_dims": [8, 4, 4],
            "axes_lens": [256, 32, 32],
        },
        "ZImagePipeline",
        captions,
        {"prompt_embeds": "cap_feats"},
        scheduler_config={"use_dynamic_shifting": True},
    ),
    "hunyuanimage": Tiny(
        "HunyuanImageTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 4,
            "attention_head_dim": 10,
            "num_layers": 1,
        }
        | {
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": (1, 1),
            "guidance_embeds": False,
        }
        | {
            "text_embed_dim": WIDTH,
            "text_embed_2_dim": WIDTH,
            "rope_axes_dim": (4, 6),
            "use_meanflow": False,
        },
        "HunyuanImagePipeline",
        embedded(
            encoder_attention_mask=mask,
            encoder_hidden_states_2=lambda n: torch.randn(n, TEXT, WIDTH),
            encoder_attention_mask_2=mask,
        ),
        EMBEDS
        | {
            "prompt_embeds_mask": "encoder_attention_mask",
            "prompt_embeds_2": "encoder_hidden_states_2",
        }
        | {"prompt_embeds_mask_2": "encoder_attention_mask_2"},
        scale=32,
        scheduler_config={"shift": 5.0},
        guidance="guider",
        extra=cfg,
    ),
    "hidream": Tiny(
        "HiDreamImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
        }
        | {
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_channels": [WIDTH, WIDTH],
            "text_emb_dim": 16,
        }
        | {
            "num_routed_experts": 2,
            "num_activated_experts": 1,
            "axes_dims_rope": (8, 4, 4),
            "max_resolution": (4, 4),
        }
        | {"llama_layers": [0, 1]},
        "HiDreamImagePipeline",
        hidream_text,
        {
            "prompt_embeds_t5": "encoder_hidden_states_t5",
            "prompt_embeds_llama3": "encoder_hidden_states_llama3",
            "pooled_prompt_embeds": "pooled_embeds",
        },
        scheduler_config={"shift": 3.0},
        attributes={"default_sample_size": 8},
    ),
    "mochi": Tiny(
        "MochiTransformer3DModel",
        {
            "patch_size": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "pooled_projection_dim": 16,
        }
        | {
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 4,
            "max_sequence_length": TEXT,
        },
        "MochiPipeline",
        embedded(16, encoder_attention_mask=lambda n: mask(n).bool()),
        MASKED,
        size=(2, 8, 8),
        scheduler_config={"invert_sigmas": True},
        arguments={"num_frames": 7},
    ),
    "chroma": Tiny(
        "ChromaTransformer2DModel",
        PACKED
        | {
            "patch_size": 1,
            "in_channels": 16,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (4, 4, 8),
        }
        | {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        "ChromaPipeline",
        embedded(attention_mask=lambda n: mask(n).float()),
        EMBEDS | {"prompt_attention_mask": "attention_mask"},
        scheduler_config={"use_dynamic_shifting": True},
    ),
    "dit": Tiny(
        "DiTTransformer2DModel",
        {
            "num_attention_heads": 4,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
        }
        | {
            "sample_size": 8,
            "patch_size": 2,
            "num_embeds_ada_norm": 1000,
            "norm_elementwise_affine": False,
        },
        "DiTPipeline",
        lambda n: {"class_labels": torch.arange(n)},
        {},
        scheduler="DDIMScheduler",
        scheduler_config=DIT_BETAS,
    ),
    "pixart": Tiny(
        "PixArtTransformer2DModel",
        {
            "sample_size": 128,
            "num_layers": 2,
            "patch_size": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 3,
        }
        | {
            "caption_channels": WIDTH,
            "in_channels": 4,
            "cross_attention_dim": 24,
            "out_channels": 8,
        }
        | {"use_additional_conditions": True},
        "PixArtAlphaPipeline",
        embedded(encoder_attention_mask=mask),
        MASKED,
        scheduler="DDIMScheduler",
        scheduler_config=DIT_BETAS,
        arguments={"use_resolution_binning": False, "negative_prompt": None},
    ),
    "sd15": Tiny(
        "UNet2DConditionModel",
        SD,
        "StableDiffusionPipeline",
        embedded(),
        EMBEDS,
        scheduler="DDIMScheduler",
        extra=unsafe,
        scheduler_config=SD_BETAS,
    ),
    "sd2 v": Tiny(
        "UNet2DConditionModel",
        SD,
        "StableDiffusionPipeline",
        embedded(),
        EMBEDS,
        scheduler="DDIMScheduler",
        extra=unsafe,
        scheduler_config=SD_BETAS | {"prediction_type": "v_prediction"},
    ),
    "sdxl": Tiny(
        "UNet2DConditionModel",
        SD
        | {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        },
        "StableDiffusionXLPipeline",
        embedded(text_embeds=vector(16)),
        EMBEDS | {"pooled_prompt_embeds": "text_embeds"},
        scheduler="DDIMScheduler",
        scheduler_config=SD_BETAS,
    ),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of diffusers on pipelines that have no text encoder."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
