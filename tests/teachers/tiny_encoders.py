"""Tiny random text encoders and tokenizers, so that whole pipelines can be saved, and embedded from, without a hub."""

from typing import Any

import torch

from teachers.tiny_diffusers import TINY, WIDTH, quiet

TEXT = "a the cat dog red blue on sits photo of big house runs two"
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *TEXT.split()]


def tokenizer(length: int) -> Any:
    """A word for a token; texts end with <eos>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **names)


def clip(width: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=16, projection_dim=projection or width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, eos_token_id=1, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5(width: int, kind: str = "T5") -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(WORDS),
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


def gemma(width: int) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(WORDS),
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
            query_pre_attn_scalar=8,
        )
    )


def encoders(name: str) -> dict[str, Any]:
    """The text side of a pipeline of TINY."""
    torch.manual_seed(5)
    if name == "sd3":
        pairs = [(clip(8, 8), 77), (clip(8, 8), 77), (t5(WIDTH), 16)]
    elif name in ("flux", "flux schnell"):
        pairs = [(clip(16), 77), (t5(WIDTH), 16)]
    elif name == "sana":
        pairs = [(gemma(8), 300)]
    elif name == "cogview4":
        pairs = [(t5(WIDTH), 1024)]
    elif name == "wan":
        pairs = [(t5(16, "UMT5"), 512)]
    else:
        pairs = [(clip(WIDTH), 77)]
    found: dict[str, Any] = {}
    for i, (encoder, length) in enumerate(pairs):
        suffix = f"_{i + 1}" if i else ""
        found |= {f"text_encoder{suffix}": encoder.eval(), f"tokenizer{suffix}": tokenizer(length)}
    return found


def save_pipeline(name: str, folder: Any) -> Any:
    """A whole pipeline on disk, the VAE left out; returns it."""
    import dataclasses

    tiny = TINY[name]
    more = tiny.extra
    with quiet():
        whole = dataclasses.replace(tiny, extra=lambda: more() | encoders(name))
        pipe = whole.pipe(tiny.network())
        pipe.save_pretrained(folder)
    return pipe
