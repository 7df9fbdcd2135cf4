"""Networks: SiT and an MLP, their embeddings, and extra scalar inputs for any backbone."""

from freeflow_lightning.nets.conditioning import Backbone, ScalarConditioned, time_embeddings
from freeflow_lightning.nets.embeddings import LabelEmbedder, ScalarEmbedder, position_table, sinusoid
from freeflow_lightning.nets.lora import Adapter, LoRA, merge
from freeflow_lightning.nets.mlp import MLP
from freeflow_lightning.nets.sit import SIZES, SiT

__all__ = [
    "MLP",
    "SIZES",
    "Adapter",
    "Backbone",
    "LabelEmbedder",
    "LoRA",
    "ScalarConditioned",
    "ScalarEmbedder",
    "SiT",
    "merge",
    "position_table",
    "sinusoid",
    "time_embeddings",
]
