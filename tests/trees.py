"""A text-to-image teacher in small: a transformer on tokens, conditioned by a tree of tensors from two text encoders."""

import torch
from torch import nn

from freeflow_lightning.teachers import Teacher
from tiny import shaken

SHAPE, LENGTH, WIDTH = (3, 4, 4), 5, 8


class Transformer(nn.Module):
    """u(x, t, {"text": ([B, L, W], mask [B, L]), "pooled": [B, W], "size": None})."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embedding = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.patches, self.pixels = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x, t, condition):
        text, mask = condition["text"]
        assert mask.dtype == torch.bool
        assert condition["size"] is None
        e = self.time_embedding(t[:, None]) + condition["pooled"]
        image = self.patches(x.flatten(2).mT) + e[:, None]
        empty = torch.cat(
            [torch.zeros(len(x), image.shape[1], dtype=torch.bool, device=x.device), ~mask], dim=1
        )
        out = self.block(torch.cat([image, text], dim=1), src_key_padding_mask=empty)[
            :, : image.shape[1]
        ]
        return self.pixels(out).mT.reshape(x.shape) - x


class TextTeacher(Teacher):
    sample_shape = SHAPE

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = shaken(Transformer(), seed)

    def velocity(self, x, t, condition):
        return self.net(x, t, condition)

    def backbone(self):
        return self.net

    def draw_condition(self, n, generator):
        """Prompts of 1 to 5 tokens."""
        draw = {"generator": generator, "device": generator.device}
        lengths = torch.randint(1, LENGTH + 1, (n, 1), **draw)
        mask = torch.arange(LENGTH, device=generator.device) < lengths
        text = torch.randn(n, LENGTH, WIDTH, **draw) * mask[..., None]
        return {"text": (text, mask), "pooled": torch.randn(n, WIDTH, **draw), "size": None}

    def null_condition(self, condition):
        text, mask = condition["text"]
        first = torch.arange(mask.shape[1], device=mask.device).expand_as(mask) == 0
        return {
            "text": (torch.zeros_like(text), first),
            "pooled": torch.zeros_like(condition["pooled"]),
            "size": None,
        }
