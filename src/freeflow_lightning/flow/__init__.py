"""The mathematics that every flow-map method shares (torch only), in the paper's convention: t = 1 is the prior, t = 0 data."""

from freeflow_lightning.flow.checks import check_counts, check_numbers, check_pairs, check_shapes
from freeflow_lightning.flow.condition import apply, join, take
from freeflow_lightning.flow.derivative import CentralDifference, Derivative, ExactJVP, ForwardDifference
from freeflow_lightning.flow.distributions import LogitNormal, TimeDistribution, Uniform, WithAtom, floor_to_grid
from freeflow_lightning.flow.flow_map import AverageVelocity, TwoTimeVelocity, flow_map
from freeflow_lightning.flow.guidance import guide, guided_rows, guided_velocity, interval_guidance
from freeflow_lightning.flow.interpolant import conditional_velocity, expand, interpolate, to_noisier
from freeflow_lightning.flow.noise import host_generator, indexed_generators, indexed_noise, stream_seed, training_generator
from freeflow_lightning.flow.posterior import bridge, glass, glass_transition, renoise
from freeflow_lightning.flow.schedules import alpha, confident_time
from freeflow_lightning.flow.solver import (
    EVALUATIONS,
    RULES,
    Velocity,
    euler,
    heun,
    midpoint,
    one_step_rule,
    rk4,
    solve,
    uniform_grid,
)

__all__ = [
    "EVALUATIONS",
    "RULES",
    "AverageVelocity",
    "CentralDifference",
    "Derivative",
    "ExactJVP",
    "ForwardDifference",
    "LogitNormal",
    "TimeDistribution",
    "TwoTimeVelocity",
    "Uniform",
    "Velocity",
    "WithAtom",
    "alpha",
    "apply",
    "check_counts",
    "check_numbers",
    "check_pairs",
    "check_shapes",
    "bridge",
    "conditional_velocity",
    "confident_time",
    "euler",
    "expand",
    "floor_to_grid",
    "flow_map",
    "glass",
    "glass_transition",
    "guide",
    "guided_rows",
    "guided_velocity",
    "heun",
    "host_generator",
    "indexed_generators",
    "indexed_noise",
    "interpolate",
    "interval_guidance",
    "join",
    "midpoint",
    "one_step_rule",
    "renoise",
    "rk4",
    "solve",
    "stream_seed",
    "take",
    "to_noisier",
    "training_generator",
    "uniform_grid",
]
