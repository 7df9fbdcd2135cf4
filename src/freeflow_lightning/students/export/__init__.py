"""Trained students as folders that stand alone: weights, config, model card, diffusers pipeline,
ONNX.
"""

from freeflow_lightning.students.export.build_network import build_network
from freeflow_lightning.students.export.card import PICTURE, write_card
from freeflow_lightning.students.export.card_front import UNKNOWN
from freeflow_lightning.students.export.folder import (
    CARD,
    MANIFEST,
    find_exported,
    read_manifest,
    seal,
)
from freeflow_lightning.students.export.hub import push_folder
from freeflow_lightning.students.export.networks import describe_network, find_foreign
from freeflow_lightning.students.export.space import GivenConditions, build_space
from freeflow_lightning.students.export.student import (
    find_differences,
    load_student,
    take_own_network,
    write_student,
)

__all__ = [
    "CARD",
    "MANIFEST",
    "PICTURE",
    "UNKNOWN",
    "GivenConditions",
    "build_network",
    "build_space",
    "describe_network",
    "find_differences",
    "find_exported",
    "find_foreign",
    "load_student",
    "push_folder",
    "read_manifest",
    "seal",
    "take_own_network",
    "write_card",
    "write_student",
]
