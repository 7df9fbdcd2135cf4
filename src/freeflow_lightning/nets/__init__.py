"""Networks: SiT and an MLP, their embeddings, and extra scalar inputs for any backbone."""

from freeflow_lightning.nets.blocks import blocks, compile_blocks, recompute
from freeflow_lightning.nets.conditioning import (
    ScalarConditioned,
    difference_error,
    map_noise,
    map_state,
    precision_of,
)
from freeflow_lightning.nets.device import device_of
from freeflow_lightning.nets.embeddings import (
    LabelEmbedder,
    ScalarEmbedder,
    position_table,
    sinusoid,
)
from freeflow_lightning.nets.lora import Adapter, LoRA, merge
from freeflow_lightning.nets.mlp import MLP
from freeflow_lightning.nets.sit import SIZES, SiT
from freeflow_lightning.nets.split import SplitConditioned, SplitHead, find_blocks
from freeflow_lightning.nets.state_conditioned import SecondState, StateConditioned
from freeflow_lightning.nets.time_modules import Backbone, time_embeddings

__all__ = [
    "MLP",
    "SIZES",
    "Adapter",
    "Backbone",
    "LabelEmbedder",
    "LoRA",
    "ScalarConditioned",
    "ScalarEmbedder",
    "SecondState",
    "SiT",
    "SplitConditioned",
    "SplitHead",
    "StateConditioned",
    "blocks",
    "compile_blocks",
    "device_of",
    "difference_error",
    "find_blocks",
    "map_noise",
    "map_state",
    "merge",
    "position_table",
    "precision_of",
    "recompute",
    "sinusoid",
    "time_embeddings",
]
