"""Teachers: changes of variables into u(x, t, condition), t = 1 the prior, the velocity pointing to
data.
"""

from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.conditions import Classes, Conditions, NoCondition, Prompts
from freeflow_lightning.teachers.contract_check import check_contract, describe_condition
from freeflow_lightning.teachers.contract_finding import ContractFinding
from freeflow_lightning.teachers.convention_check import ConventionCheck, check_convention
from freeflow_lightning.teachers.ddpm import Betas, CosineBetas, DDPMTeacher, GivenAbars
from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.diffusers.teacher import DiffusersTeacher
from freeflow_lightning.teachers.edm import EDMTeacher
from freeflow_lightning.teachers.gaussian_mixture import GaussianMixtureTeacher
from freeflow_lightning.teachers.gaussian_path import (
    GaussianPath,
    LinearPath,
    PathTeacher,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from freeflow_lightning.teachers.latents import LatentDecoder
from freeflow_lightning.teachers.predictions import Coefficients
from freeflow_lightning.teachers.sit import SiTTeacher
from freeflow_lightning.teachers.sit_velocity import REPA, SIT, Convention, SiTVelocity
from freeflow_lightning.teachers.sit_weights import load_sit, save_sit
from freeflow_lightning.teachers.space import LatentSpace
from freeflow_lightning.teachers.velocity import VelocityTeacher

__all__ = [
    "REPA",
    "SIT",
    "Betas",
    "Classes",
    "Coefficients",
    "Conditions",
    "ContractFinding",
    "Convention",
    "ConventionCheck",
    "CosineBetas",
    "DDPMTeacher",
    "DiffusersTeacher",
    "EDMTeacher",
    "Family",
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
    "VariancePreservingPath",
    "VelocityTeacher",
    "check_contract",
    "check_convention",
    "describe_condition",
    "load_sit",
    "save_sit",
]
