"""How each family of diffusers networks is called and read: one row per class, in FAMILIES."""

from freeflow_lightning.teachers.diffusers.family import MASK, POOLED, TEXT, Embedding, Family
from freeflow_lightning.teachers.diffusers.inputs import (
    add_chroma_mask,
    add_cogview4_sizes,
    add_flux2_ids,
    add_flux_ids,
    add_hunyuan_end,
    add_ltx_sizes,
    add_pixart_sizes,
    add_qwen_shapes,
    add_unet_sizes,
    keep_norm,
    list_zimage_captions,
    move_hidream_layers,
    scale_sana_time,
    split_films,
    stack_films,
)

UNIT, FLIPPED = (0.0, 1.0), (1.0, -1.0)
MASKED = {TEXT: Embedding(0, 2), MASK: Embedding(1, 3)}

FAMILIES: dict[str, Family] = {
    # flow matching, noise - data
    "SD3Transformer2DModel": Family(prompts={TEXT: Embedding(0, 1), POOLED: Embedding(2, 3)}),
    "FluxTransformer2DModel": Family(
        UNIT,
        layout="patches",
        prompts={TEXT: Embedding(0), POOLED: Embedding(1)},
        inputs=add_flux_ids,
    ),
    "Flux2Transformer2DModel": Family(
        UNIT, layout="patches", prompts={TEXT: Embedding(0)}, inputs=add_flux2_ids
    ),
    "QwenImageTransformer2DModel": Family(
        UNIT,
        layout="patches",
        prompts={TEXT: Embedding(0), f"{TEXT}_mask": Embedding(1)},
        inputs=add_qwen_shapes,
        rescale=keep_norm,
    ),
    "SanaTransformer2DModel": Family(prompts=MASKED, inputs=scale_sana_time),
    "AuraFlowTransformer2DModel": Family(UNIT, prompts={TEXT: Embedding(0, 2)}),
    "WanTransformer3DModel": Family(layout="video", prompts={TEXT: Embedding(0, 1)}),
    "LTXVideoTransformer3DModel": Family(layout="voxels", prompts=MASKED, inputs=add_ltx_sizes),
    "CogView4Transformer2DModel": Family(
        prompts={TEXT: Embedding(0)},
        pads_in_batch=True,
        inputs=add_cogview4_sizes,
        needs_scheduler=True,
    ),
    "HunyuanImageTransformer2DModel": Family(
        prompts={
            TEXT: Embedding(0),
            MASK: Embedding(1),
            f"{TEXT}_2": Embedding(2),
            f"{MASK}_2": Embedding(3),
        },
        inputs=add_hunyuan_end,
        guidance_input=("guidance", 1000.0),
    ),
    "ChromaTransformer2DModel": Family(
        UNIT,
        layout="patches",
        prompts={TEXT: Embedding(0, 3), "attention_mask": Embedding(2, 5)},
        inputs=add_chroma_mask,
        time_module="distilled_guidance_layer.out_proj",
    ),
    # flow matching, data - noise
    "Lumina2Transformer2DModel": Family(FLIPPED, +1, prompts=MASKED, rescale=keep_norm),
    "ZImageTransformer2DModel": Family(
        FLIPPED,
        +1,
        prompts={"cap_feats": Embedding(0, 1), "cap_feats_mask": Embedding(None)},
        inputs=list_zimage_captions,
        state="x",
        timestep="t",
        guidance_offset=1.0,
        pack=split_films,
        unpack=stack_films,
    ),
    "MochiTransformer3DModel": Family((1000.0, -1000.0), +1, layout="video", prompts=MASKED),
    "HiDreamImageTransformer2DModel": Family(
        sign=+1,
        prompts={
            f"{TEXT}_t5": Embedding(0, 1),
            f"{TEXT}_llama3": Embedding(2, 3, batch_axis=1),
            "pooled_embeds": Embedding(4, 5),
        },
        inputs=move_hidream_layers,
        timestep="timesteps",
    ),
    # DDPM: epsilon or v, the time being the scheduler's index
    "DiTTransformer2DModel": Family(
        prediction="from_scheduler", needs_scheduler=True, classes="class_labels"
    ),
    "PixArtTransformer2DModel": Family(
        prediction="from_scheduler", needs_scheduler=True, prompts=MASKED, inputs=add_pixart_sizes
    ),
    "UNet2DConditionModel": Family(
        prediction="from_scheduler",
        needs_scheduler=True,
        prompts={TEXT: Embedding(0, 1), "text_embeds": Embedding(2, 3)},
        inputs=add_unet_sizes,
        state="sample",
    ),
}
"""By class name; times, signs and arguments as the pipelines of diffusers 0.42 use them."""
