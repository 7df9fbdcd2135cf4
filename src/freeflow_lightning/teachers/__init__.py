"""Teachers: changes of variables into u(x, t, condition), t = 1 the prior, the velocity pointing to data."""

from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.checks import ConventionCheck, check_convention
from freeflow_lightning.teachers.gaussian_mixture import GaussianMixtureTeacher
from freeflow_lightning.teachers.sit import SiTTeacher, SiTVelocity, load_sit, save_sit
from freeflow_lightning.teachers.velocity import VelocityTeacher

__all__ = [
    "ConventionCheck",
    "GaussianMixtureTeacher",
    "SiTTeacher",
    "SiTVelocity",
    "Teacher",
    "VelocityTeacher",
    "check_convention",
    "load_sit",
    "save_sit",
]
