"""Trained students as folders that stand alone: weights, config, model card, diffusers pipeline,
ONNX.
"""

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
from freeflow_lightning.students.export.networks import build_network, describe_network, foreign
from freeflow_lightning.students.export.space import GivenConditions, build_space
from freeflow_lightning.students.export.student import (
    allowed,
    load_student,
    same_everywhere,
    write_student,
)

__all__ = [
    "CARD",
    "MANIFEST",
    "PICTURE",
    "UNKNOWN",
    "GivenConditions",
    "allowed",
    "build_network",
    "build_space",
    "describe_network",
    "find_exported",
    "foreign",
    "load_student",
    "push_folder",
    "read_manifest",
    "same_everywhere",
    "seal",
    "write_card",
    "write_student",
]
