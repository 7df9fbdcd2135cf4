"""Teachers: changes of variables into u(x, t, condition), t = 1 the prior, the velocity pointing to data."""

from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.ddpm import Betas, CosineBetas, DDPMTeacher, GivenAbars
from freeflow_lightning.teachers.edm import EDMTeacher
from freeflow_lightning.teachers.gaussian_mixture import GaussianMixtureTeacher
from freeflow_lightning.teachers.gaussian_path import (
    GaussianPath,
    LinearPath,
    PathTeacher,
    TrigonometricPath,
    VarianceExplodingPath,
)
from freeflow_lightning.teachers.sit import SiTTeacher, SiTVelocity, load_sit, save_sit
from freeflow_lightning.teachers.velocity import VelocityTeacher

__all__ = [
    "Betas",
    "CosineBetas",
    "DDPMTeacher",
    "EDMTeacher",
    "GaussianMixtureTeacher",
    "GaussianPath",
    "GivenAbars",
    "LinearPath",
    "PathTeacher",
    "SiTTeacher",
    "SiTVelocity",
    "Teacher",
    "TrigonometricPath",
    "VarianceExplodingPath",
    "VelocityTeacher",
    "load_sit",
    "save_sit",
]
