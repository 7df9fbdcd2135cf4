"""Teachers: changes of variables into u(x, t, condition), t = 1 the prior, the velocity pointing to
data.
"""

from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.checks import ConventionCheck, check_convention
from freeflow_lightning.teachers.conditions import Classes, Conditions, NoCondition, Prompts
from freeflow_lightning.teachers.ddpm import Betas, CosineBetas, DDPMTeacher, GivenAbars
from freeflow_lightning.teachers.diffusers.families import Family
from freeflow_lightning.teachers.diffusers.teacher import DiffusersTeacher
from freeflow_lightning.teachers.edm import EDMTeacher
from freeflow_lightning.teachers.gaussian_mixture import GaussianMixtureTeacher
from freeflow_lightning.teachers.gaussian_path import (
    GaussianPath,
    LinearPath,
    PathTeacher,
    TrigonometricPath,
    VarianceExplodingPath,
)
from freeflow_lightning.teachers.latents import LatentDecoder
from freeflow_lightning.teachers.sit import (
    REPA,
    SIT,
    Convention,
    SiTTeacher,
    SiTVelocity,
    load_sit,
    save_sit,
)
from freeflow_lightning.teachers.space import LatentSpace
from freeflow_lightning.teachers.validate import Finding, described, examine
from freeflow_lightning.teachers.velocity import VelocityTeacher

__all__ = [
    "REPA",
    "SIT",
    "Betas",
    "Classes",
    "Conditions",
    "Convention",
    "ConventionCheck",
    "CosineBetas",
    "DDPMTeacher",
    "DiffusersTeacher",
    "EDMTeacher",
    "Family",
    "Finding",
    "GaussianMixtureTeacher",
    "GaussianPath",
    "GivenAbars",
    "LatentDecoder",
    "LatentSpace",
    "LinearPath",
    "NoCondition",
    "PathTeacher",
    "Prompts",
    "SiTTeacher",
    "SiTVelocity",
    "Teacher",
    "TrigonometricPath",
    "VarianceExplodingPath",
    "VelocityTeacher",
    "check_convention",
    "described",
    "examine",
    "load_sit",
    "save_sit",
]
