"""Teachers that are diffusers pipelines: a row per family."""

from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.diffusers.teacher import DiffusersTeacher

__all__ = ["DiffusersTeacher", "Family"]
