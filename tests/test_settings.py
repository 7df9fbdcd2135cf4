"""Settings that cannot be meant are refused by every constructor, in one style; see flow/checks.py."""

import inspect
import math
import re

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler

import freeflow_lightning
from freeflow_lightning import (
    FlowMap,
    FlowMapModule,
    FlowMatchingModule,
    FreeFlowModule,
    PosteriorModule,
    PriorDataModule,
    TransitionModule,
    callbacks,
    flow,
    metrics,
    nets,
    objectives,
    recipes,
    teachers,
)
from freeflow_lightning.callbacks import (
    AlphaSchedule,
    ConfidentRegionWarmup,
    DistillationProgress,
    DiversityAlarm,
    FinalCorrection,
    HealthMonitor,
    LaterStarts,
    PeriodicFID,
    PostHocEMA,
    Requeue,
    SampleGrid,
    SpikeGuard,
    StudentEMA,
    TangentWarmup,
    TrajectoryError,
)
from freeflow_lightning.flow import (
    CentralDifference,
    ForwardDifference,
    Grid,
    LogitNormal,
    TeacherPath,
    ToData,
    TowardsPrior,
    Uniform,
    WithAtom,
    WithDiagonal,
    alpha,
    check_counts,
    check_numbers,
    check_pairs,
    check_shapes,
    confident_time,
    solve,
)
from freeflow_lightning.metrics import (
    FlatFeatures,
    FrechetDistance,
    Moments,
    TableBuilder,
    coverage,
    frechet_distance,
    inception_score,
)
from freeflow_lightning.nets import (
    MLP,
    LabelEmbedder,
    LoRA,
    ScalarConditioned,
    ScalarEmbedder,
    SiT,
    SplitConditioned,
    SplitHead,
    StateConditioned,
)
from freeflow_lightning.objectives import (
    Consistency,
    Decay,
    DiscreteEulerian,
    DiscreteLagrangian,
    DiscretePrediction,
    DMDWeight,
    Endpoint,
    Eulerian,
    Normalise,
    Semigroup,
)
from freeflow_lightning.recipes import Correction, DMDModule, Tilt
from freeflow_lightning.students import search
from freeflow_lightning.students.search import (
    PathSearch,
    RandomSearch,
    Steering,
    TargetDistance,
    ZeroOrderSearch,
)
from freeflow_lightning.students.search.oracle import FrechetOracle
from freeflow_lightning.teachers import (
    Convention,
    DDPMTeacher,
    DiffusersTeacher,
    EDMTeacher,
    Family,
    GaussianMixtureTeacher,
    GivenAbars,
    LatentDecoder,
    LatentSpace,
    LinearPath,
    PathTeacher,
    SiTTeacher,
    VarianceExplodingPath,
    VariancePreservingPath,
    VelocityTeacher,
)
from freeflow_lightning.teachers.conditions import Classes
from freeflow_lightning.teachers.ddpm import Betas, CosineBetas
from freeflow_lightning.teachers.edm import EDMVelocity
from tiny import data, fit, mixture, mlp, module

NAN, INF = math.nan, math.inf
NO_COUNTS = (0, -1, 2.5, NAN, INF, True, "3", None)
NO_SIZES = (-1, 2.5, NAN, INF, True, "3", None)
NO_FACTORS = (0, -1, -0.5, NAN, INF, -INF, True, "0.1", None)
NO_AMOUNTS = (-1, -0.5, NAN, INF, -INF, True, "0.1", None)
NO_SHARES = (*NO_AMOUNTS, 1.5)
NO_SEEDS = (0.5, NAN, True, "3", None)
NO_PAIRS = ((2.0, 1.0), (1.0,), (1.0, 1.5, 2.0), (), (NAN, 1.0), (1.0, INF), (-1.0, 1.0), 1.0, "12")
NO_INTERVALS = ((0.4, 0.0), (0.4,), (0.0, 0.2, 0.4), (), (NAN, 0.4), (0.0, 1.5), (True, 0.4), 0.4)
NO_BETAS = ((0.99, 0.9), (0.9,), (0.9, 0.99, 0.999), (0.9, 1.0), (-0.1, 0.9), (NAN, 0.9), 0.9)
NO_SHAPES = ((), (0,), (2, -1), (2.0,), (True,), 2, None)


def prior(**setting):
    return PriorDataModule(**setting)


def matching(**setting):
    return FlowMatchingModule(
        **{"network": mlp(), "sample_shape": (2,), "num_classes": 2} | setting
    )


def frechet(**setting):
    return PeriodicFID(FrechetDistance(FlatFeatures(2)), **setting)


def network(**setting):
    return MLP(**{"sample_shape": (2,), "hidden_size": 8, "depth": 1} | setting)


def transformer(**setting):
    small = {"input_size": 4, "in_channels": 1, "hidden_size": 8, "depth": 1, "num_heads": 2}
    return SiT(**small | {"num_classes": 3} | setting)


def atom(**setting):
    return WithAtom(LogitNormal(0.0, 1.0), **setting)


def normal(**setting):
    return LogitNormal(**{"mean": 0.0, "std": 1.0} | setting)


def rates(**setting):
    return alpha(1, **setting)


def warm(**setting):
    return confident_time(1, **setting)


def solved(**setting):
    return solve(lambda x, t, c: x, torch.zeros(1, 1), **setting)


def scored(**setting):
    return inception_score(torch.eye(4), **setting)


def covered(**setting):
    return coverage(torch.rand(9, 2), torch.rand(9, 2), **setting)


def oracle(**setting):
    return FrechetOracle(Moments(torch.zeros(1), torch.ones(1, 1)), **setting)


def labels(**setting):
    return LabelEmbedder(**{"num_classes": 2, "hidden_size": 4} | setting)


def scalars(**setting):
    return ScalarEmbedder(**{"hidden_size": 4} | setting)


def edm(**setting):
    return EDMVelocity(mlp(), **setting)


def velocity(**setting):
    return VelocityTeacher(**{"function": lambda x, t, c: -x, "sample_shape": (2,)} | setting)


def mixture_of_two(**setting):
    return GaussianMixtureTeacher(**{"means": [[0.0], [1.0]], "std": 0.1} | setting)


def maps(**setting):
    return FlowMapModule(mixture(), mlp(), **setting)


def posteriors(**setting):
    return PosteriorModule(mixture(), mlp(), **setting)


def stated(**setting):
    return StateConditioned(mlp(), **setting)


def tilt(**setting):
    return Tilt(len, **setting)


def split(**setting):
    return SplitConditioned(blocks(), **setting)


def blocks():
    return SiT(4, 2, 1, hidden_size=8, depth=2, num_heads=2, num_classes=0)


def transitions(**setting):
    return TransitionModule(VelocityTeacher(blocks(), (1, 4, 4)), **setting)


def matched(**setting):
    return DMDModule(mixture(), mlp(), **setting)


def diagonal(**setting):
    return WithDiagonal(ToData(Uniform()), **setting)


def table(**setting):
    return TableBuilder(FlatFeatures(2), **setting)


def conditioned(**setting):
    return ScalarConditioned(mlp(), ("delta",), **setting)


def final_correction(**setting):
    return FinalCorrection(**({"delay_steps": 1} | setting))


def later_starts(**setting):
    return LaterStarts(**({"delay_steps": 1} | setting))


def flow_map(**setting):
    return FlowMap(mlp(), mixture(), **setting)


def space(**setting):
    return LatentSpace(**{"sample_shape": (2,), "num_classes": 0, "vae": None} | setting)


def decoder(**setting):
    return LatentDecoder("gone", **setting)


def convention(**setting):
    return Convention(**{"prior_time": 0, "sign": 1} | setting)


def sit(**setting):
    return SiTTeacher("gone.pt", **setting)


def diffusers(**setting):
    return DiffusersTeacher("gone", **setting)


def on_path(**setting):
    given = {"network": mlp(), "path": LinearPath(), "prediction": "noise", "sample_shape": (2,)}
    return PathTeacher(**given | setting)


def ddpm(**setting):
    return DDPMTeacher(**{"network": mlp(), "sample_shape": (2,)} | setting)


def edm_teacher(**setting):
    return EDMTeacher(**{"network": mlp(), "sample_shape": (2,)} | setting)


DISTILLATIONS = (module, maps, matched, posteriors, transitions)
OF_EVERY_DISTILLATION = {
    "guidance_range": NO_PAIRS,
    "evaluation_guidance": (0.5, 2.5, NAN, INF, True, "1.5", None),
    "student_lr": NO_FACTORS,
    "auxiliary_lr": NO_FACTORS,
    "lr_decay_steps": NO_SIZES,
    "betas": NO_BETAS,
    "eps": NO_FACTORS,
    "scalar_scale": NO_FACTORS,
}
REFUSED = [
    *((build, *row) for build in DISTILLATIONS for row in OF_EVERY_DISTILLATION.items()),
    (module, "guidance_interval", NO_INTERVALS),
    (module, "correction_fraction", NO_SHARES),
    (module, "alpha_ref", NO_AMOUNTS),
    (module, "residual_decay", NO_AMOUNTS),
    (matching, "sample_shape", NO_SHAPES),
    (matching, "num_classes", NO_SIZES),
    (matching, "label_dropout", NO_SHARES),
    (matching, "lr", NO_FACTORS),
    (matching, "warmup_steps", NO_SIZES),
    (matching, "betas", NO_BETAS),
    (matching, "seed", NO_SEEDS[:-1]),
    (matching, "evaluation_guidance", NO_AMOUNTS),
    (matching, "evaluation_steps", NO_COUNTS),
    (prior, "batch_size", NO_COUNTS),
    (prior, "length", NO_COUNTS),
    (prior, "seed", NO_SEEDS[:-1]),
    (prior, "val_samples", NO_SIZES),
    (prior, "val_batch_size", NO_COUNTS),
    (prior, "global_batch_size", NO_COUNTS[:-1]),  # none is every process's own
    (AlphaSchedule, "delay_steps", NO_SIZES),
    (AlphaSchedule, "warmup_steps", NO_SIZES),
    (AlphaSchedule, "decay_steps", (0, -1, NAN, -INF, True, "3", None)),
    (ConfidentRegionWarmup, "steps", NO_COUNTS),
    (StudentEMA, "decays", ((), (1.0,), (-0.1,), (NAN,), (0.9, 0.9), (True,), ("0.9",), 0.9, None)),
    (SpikeGuard, "factor", (1, 0, NAN, INF, True, "2", None)),
    (SpikeGuard, "window", (*NO_COUNTS, 1)),
    (SpikeGuard, "rollbacks", NO_COUNTS),
    (DiversityAlarm, "least", (0, -1, NAN, INF, True, "2", None)),
    (DiversityAlarm, "classes", NO_COUNTS),
    (DiversityAlarm, "count", (*NO_COUNTS, 1)),
    (DiversityAlarm, "steps", NO_COUNTS),
    (PostHocEMA, "lengths", ((), (0.3,), (0.0,), (0.1, 0.1), 0.1)),
    (PostHocEMA, "every_n_steps", NO_COUNTS),
    (frechet, "reference_samples", (*NO_COUNTS, 1)),
    (frechet, "steps", NO_COUNTS),
    (frechet, "seed", NO_SEEDS),
    (frechet, "method", ("adams",)),
    (SampleGrid, "count", NO_COUNTS),
    (SampleGrid, "steps", NO_COUNTS),
    (SampleGrid, "seed", NO_SEEDS),
    (SampleGrid, "method", ("adams",)),
    (HealthMonitor, "factor", (*NO_FACTORS, 1.0)),
    (HealthMonitor, "window", NO_COUNTS),
    (HealthMonitor, "least_spread", NO_AMOUNTS),
    (HealthMonitor, "count", (*NO_COUNTS, 1)),
    (HealthMonitor, "steps", NO_COUNTS),
    (TrajectoryError, "count", NO_COUNTS),
    (TrajectoryError, "points", (*NO_COUNTS, 5)),
    (TrajectoryError, "steps", NO_COUNTS),
    (TrajectoryError, "seed", NO_SEEDS),
    (DistillationProgress, "refresh_rate", NO_SIZES),
    (Requeue, "every_n_steps", NO_COUNTS),
    (normal, "mean", (NAN, INF, True, "0", None)),
    (normal, "std", NO_AMOUNTS),
    (Uniform, "low", NO_SHARES),
    (Uniform, "high", NO_SHARES),
    (atom, "probability", NO_SHARES),
    (atom, "at", NO_SHARES),
    (rates, "reference", NO_AMOUNTS),
    (rates, "delay_steps", NO_SIZES),
    (rates, "warmup_steps", NO_SIZES),
    (rates, "decay_steps", (0, -1, NAN, True, "3", None)),
    (warm, "warmup_steps", NO_SIZES),
    (solved, "steps", NO_COUNTS),
    (solved, "method", ("adams",)),
    (CentralDifference, "h", (*NO_FACTORS, 0.6)),
    (ForwardDifference, "h", (*NO_FACTORS, 0.6)),
    (DiscretePrediction, "steps", NO_COUNTS),
    (DiscretePrediction, "method", ("adams",)),
    (LoRA, "rank", NO_COUNTS),
    (LoRA, "alpha", (0, -1, NAN, INF, True, "3")),
    (LoRA, "dropout", (*NO_SHARES, 1.0)),
    (LoRA, "networks", ((), ("teacher",), ("student", "student"))),
    (LoRA, "target_modules", ([], "")),
    (network, "sample_shape", NO_SHAPES),
    (network, "hidden_size", NO_COUNTS),
    (network, "depth", NO_COUNTS),
    (network, "num_classes", NO_SIZES),
    (network, "time_scale", NO_FACTORS),
    (transformer, "input_size", (*NO_COUNTS, 5)),
    (transformer, "patch_size", (*NO_COUNTS, 3)),
    (transformer, "in_channels", NO_COUNTS),
    (transformer, "hidden_size", (*NO_COUNTS, 9)),
    (transformer, "depth", NO_COUNTS),
    (transformer, "num_heads", (*NO_COUNTS, 3)),
    (transformer, "mlp_ratio", NO_FACTORS),
    (transformer, "num_classes", NO_SIZES),
    (transformer, "time_scale", NO_FACTORS),
    (transformer, "qk_norm", ("batch", None)),
    (scalars, "hidden_size", NO_COUNTS),
    (scalars, "frequencies", (*NO_COUNTS, 3)),
    (scalars, "scale", NO_FACTORS),
    (labels, "num_classes", NO_COUNTS),
    (labels, "hidden_size", NO_COUNTS),
    (FlatFeatures, "num_features", NO_COUNTS),
    (scored, "split_samples", NO_COUNTS),
    (covered, "k", NO_COUNTS),
    (RandomSearch, "candidates", NO_COUNTS),
    (ZeroOrderSearch, "candidates", NO_COUNTS),
    (ZeroOrderSearch, "neighbours", NO_COUNTS),
    (ZeroOrderSearch, "radius", (*NO_FACTORS, 1.5)),
    (Steering, "candidates", NO_COUNTS),
    (Steering, "draws", (*NO_COUNTS, 1)),
    (Steering, "strength", NO_AMOUNTS),
    (PathSearch, "candidates", NO_COUNTS),
    (PathSearch, "paths", (*NO_COUNTS, 17)),
    (PathSearch, "branches", NO_COUNTS),
    (PathSearch, "start", (*NO_FACTORS, 1.0)),
    (PathSearch, "forward", (*NO_AMOUNTS, 0.6)),
    (PathSearch, "backward", (*NO_FACTORS, 0.25)),
    (Betas, "start", (*NO_FACTORS, 0.5)),
    (Betas, "end", (*NO_FACTORS, 1.0, 1e-5)),
    (Betas, "steps", (*NO_COUNTS, 1)),
    (Betas, "power", NO_FACTORS),
    (CosineBetas, "steps", (*NO_COUNTS, 1)),
    (CosineBetas, "offset", NO_FACTORS),
    (CosineBetas, "largest", (*NO_FACTORS, 1.0)),
    (LinearPath, "scale", NO_FACTORS),
    (VarianceExplodingPath, "sigma_min", (*NO_FACTORS, 100.0)),
    (VarianceExplodingPath, "sigma_max", (*NO_FACTORS, 0.001)),
    (VariancePreservingPath, "tau_min", (*NO_FACTORS, 20.0)),
    (VariancePreservingPath, "tau_max", (*NO_FACTORS, 1e-4)),
    (edm, "num_classes", NO_SIZES),
    (edm, "sigma_data", NO_FACTORS),
    (edm, "sigma_min", (*NO_FACTORS, 100.0)),
    (edm, "sigma_max", (*NO_FACTORS, 0.001)),
    (edm, "data_scale", NO_FACTORS),
    (velocity, "sample_shape", NO_SHAPES),
    (velocity, "num_classes", NO_SIZES),
    (Classes, "num_classes", NO_COUNTS),
    (mixture_of_two, "means", ([[NAN], [1.0]], [[INF], [1.0]], [0.0, 1.0])),
    (mixture_of_two, "std", (0.0, -1.0, NAN, INF, [0.1, NAN])),
    (mixture_of_two, "weights", ([1.0, NAN], [1.0, 0.0], [1.0, -1.0], [1.0, INF], [1.0])),
    (mixture_of_two, "labels", ([0, 2], [-1, 0], [0])),
    (oracle, "weight", NO_COUNTS),
    (oracle, "refresh", NO_COUNTS),
    (TargetDistance, "target", ([], [NAN, 1.0])),
    (SplitHead, "outer_steps", NO_COUNTS),
    (transitions, "match_steps", NO_SIZES),
    (transitions, "auxiliary_updates", NO_COUNTS),
    (transitions, "diagonal_fraction", (*NO_SHARES, 0.0, 1.0)),
    (transitions, "guidance_interval", NO_INTERVALS),
    (split, "scale", (*NO_FACTORS, {"delta": NAN})),
    (SplitHead, "steps", NO_COUNTS),
    (tilt, "strength", NO_AMOUNTS),
    (tilt, "offset", (NAN, INF, True, "0.1", None)),
    (tilt, "steps", NO_COUNTS),
    (SplitHead, "blocks", [count for count in NO_COUNTS if count is not None]),
    (posteriors, "diagonal_fraction", (*NO_SHARES, 1.0)),
    (stated, "scale", (*NO_FACTORS, {"delta": NAN})),
    (TowardsPrior, "power", NO_FACTORS),
    (matched, "times", ((), (0.0, 1.0), (1.5,), (NAN,), (True,))),
    (matched, "auxiliary_updates", NO_COUNTS),
    (matched, "guidance_interval", NO_INTERVALS),
    (DMDWeight, "floor", NO_FACTORS),
    (TangentWarmup, "steps", NO_COUNTS),
    (final_correction, "delay_steps", NO_SIZES),
    (final_correction, "lead", (*NO_FACTORS, 0.9)),
    (final_correction, "auxiliary_updates", NO_COUNTS),
    (later_starts, "delay_steps", NO_SIZES),
    (later_starts, "warmup_steps", NO_SIZES),
    (maps, "anchor_fraction", (*NO_SHARES, 1.0)),
    (Correction, "fraction", (*NO_SHARES, 0.0, 1.0)),
    (Correction, "alpha_ref", NO_AMOUNTS),
    (Correction, "guidance_interval", NO_INTERVALS),
    (TeacherPath, "steps", NO_COUNTS),
    (TeacherPath, "per_path", (*NO_COUNTS, 3)),
    (Grid, "steps", NO_COUNTS),
    (diagonal, "probability", NO_SHARES),
    (table, "kept", NO_SIZES),
    (conditioned, "scale", (*NO_FACTORS, {"delta": NAN})),
    (Decay, "k", NO_AMOUNTS),
    (Decay, "epsilon", NO_AMOUNTS),
    (Normalise, "c", NO_FACTORS),
    (Endpoint, "steps", NO_COUNTS),
    (Consistency, "steps", NO_COUNTS),
    (DiscreteEulerian, "alpha", (*NO_FACTORS, 1.5)),
    (Eulerian, "tangent", NO_SHARES),
    (DiscreteLagrangian, "steps", NO_COUNTS),
    (Semigroup, "split", NO_SHARES),
    (flow_map, "guidance_range", NO_PAIRS),
    (space, "sample_shape", NO_SHAPES),
    (space, "num_classes", NO_SIZES),
    (decoder, "scale", (*NO_FACTORS[:-1], [1.0, NAN], [1.0, 0.0])),
    (decoder, "shift", (NAN, INF, True, "0.1", [0.0, INF])),
    (decoder, "chunk", NO_COUNTS),
    (convention, "prior_time", (-1, 2, 0.5, NAN, True)),
    (convention, "sign", (0, 2, 0.5, NAN, True)),
    (sit, "cfg_channels", NO_COUNTS[:-1]),
    (sit, "num_heads", NO_COUNTS[:-1]),
    (sit, "input_size", NO_COUNTS[:-1]),
    (sit, "num_classes", NO_SIZES[:-1]),
    (diffusers, "latent_size", (*NO_COUNTS[:-1], [0, 8], [8, NAN], [True, 8])),
    (diffusers, "t_max", (*NO_FACTORS, 1.5)),
    (Family, "time", ((0.0, 0.0), (NAN, 1.0), (0.0, INF), (0.0,), (0.0, True))),
    (Family, "sign", (0, 2, 0.5, NAN, True)),
    (Family, "guidance_offset", (NAN, INF, True, "1", None)),
    (Family, "guidance_input", (("guidance", NAN), ("guidance", 0.0), ("guidance", True))),
    (on_path, "sample_shape", NO_SHAPES),
    (on_path, "num_classes", NO_SIZES),
    (on_path, "t_max", (*NO_FACTORS, 1.5)),
    (ddpm, "sample_shape", NO_SHAPES),
    (ddpm, "num_classes", NO_SIZES),
    (ddpm, "t_max", (*NO_FACTORS, 1.5)),
    (GivenAbars, "values", ((), (0.9,), (0.5, 0.9), (0.9, NAN), (1.0, 0.5), (0.9, -0.1))),
    (edm_teacher, "sample_shape", NO_SHAPES),
    (edm_teacher, "num_classes", NO_SIZES),
    (edm_teacher, "sigma_data", NO_FACTORS),
    (edm_teacher, "sigma_min", (*NO_FACTORS, 100.0)),
    (edm_teacher, "sigma_max", (*NO_FACTORS, 0.001)),
    (edm_teacher, "data_scale", NO_FACTORS),
]


@pytest.mark.parametrize(
    ("build", "setting", "values"),
    REFUSED,
    ids=lambda x: x if isinstance(x, str) else getattr(x, "__name__", ""),
)
def test_what_cannot_be_meant_is_refused(build, setting, values):
    for value in values:
        with pytest.raises(ValueError, match=r"expected|unknown solver") as caught:
            build(**{setting: value})
        assert "\n" not in str(caught.value)


BUILT_BY = {
    FinalCorrection: final_correction,
    LaterStarts: later_starts,
    MLP: network,
    SiT: transformer,
    PriorDataModule: prior,
    LogitNormal: normal,
    FreeFlowModule: module,
    FlowMapModule: maps,
    DMDModule: matched,
    TransitionModule: transitions,
    SplitConditioned: split,
    Tilt: tilt,
    FlowMatchingModule: matching,
    PeriodicFID: frechet,
    WithAtom: atom,
    WithDiagonal: diagonal,
    TableBuilder: table,
    ScalarConditioned: conditioned,
    StateConditioned: stated,
    PosteriorModule: posteriors,
    ScalarEmbedder: scalars,
    LabelEmbedder: labels,
    FrechetOracle: oracle,
    FlowMap: flow_map,
    LatentSpace: space,
    LatentDecoder: decoder,
    Convention: convention,
    SiTTeacher: sit,
    DiffusersTeacher: diffusers,
    VelocityTeacher: velocity,
    GaussianMixtureTeacher: mixture_of_two,
    PathTeacher: on_path,
    DDPMTeacher: ddpm,
    EDMTeacher: edm_teacher,
}
"""Classes that take more than numbers, and what builds one with a setting changed."""


def public_classes():
    """What a config or a script constructs: the classes of the public rooms, results aside."""
    rooms = (
        freeflow_lightning,
        callbacks,
        flow,
        metrics,
        nets,
        objectives,
        recipes,
        search,
        teachers,
    )
    for room in rooms:
        for name in room.__all__:
            kind = getattr(room, name)
            is_result = inspect.isclass(kind) and issubclass(kind, tuple)
            if inspect.isclass(kind) and not is_result and not inspect.isabstract(kind):
                yield kind


def numbers_of(kind):
    """The arguments of a constructor that take a number, or several."""
    for name, argument in inspect.signature(kind).parameters.items():
        hint = argument.annotation
        words = hint.__name__ if hint in (int, float) else str(hint)
        if re.search(r"\b(int|float)\b", words):
            yield name


def test_no_number_of_a_public_constructor_is_forgotten():
    tried = {(build, setting) for build, setting, _ in REFUSED}
    forgotten = [
        f"{kind.__name__}.{name}"
        for kind in public_classes()
        for name in numbers_of(kind)
        if (BUILT_BY.get(kind, kind), name) not in tried
    ]
    assert sorted(set(forgotten)) == []


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_counts(1, steps=0), "expected steps to be an integer of at least 1, got 0"),
        (lambda: check_counts(-INF, seed=0.5), "expected seed to be an integer, got 0.5"),
        (lambda: check_numbers(-INF, mean=NAN), "expected mean to be a finite number, got nan"),
        (
            lambda: check_numbers(0, lr=-1),
            "expected lr to be a finite number of at least 0, got -1",
        ),
        (
            lambda: check_numbers(0, 1, share=2),
            "expected share to be a finite number from 0 to 1, got 2",
        ),
        (
            lambda: check_numbers(0, 1, without_high=True, decay=1.0),
            "expected decay to be a finite number of at least 0 and below 1, got 1.0",
        ),
        (
            lambda: check_pairs(0, INF, guidance_range=[2, 1]),
            "expected guidance_range to be two finite numbers of at least 0, the smaller one "
            "first, got [2, 1]",
        ),
        (
            lambda: check_shapes(sample_shape=()),
            "expected sample_shape to be one or more integers of at least 1, got []",
        ),
    ],
)
def test_the_words(check, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check()


def test_an_integer_beyond_every_float_is_no_number():
    with pytest.raises(ValueError, match="expected lr to be a finite number of at least 0, got 1"):
        check_numbers(0, lr=10**400)


def test_what_can_be_meant_is_accepted():
    module(guidance_range=(1, 1), evaluation_guidance=1, guidance_interval=(0, 0), betas=[0.0, 0.0])
    module(alpha_ref=0, residual_decay=0.5, correction_fraction=1)
    assert AlphaSchedule(0, 0, INF).decay_steps == INF
    assert ZeroOrderSearch(radius=1).radius == 1
    assert PathSearch(forward=0).forward == 0
    assert Uniform(0.5, 0.5).low == 0.5
    assert PriorDataModule(seed=-1).seed == -1


# Statistics


def test_a_mean_of_nan_is_no_reference():
    good, eye = torch.zeros(2), torch.eye(2)
    for bad in (torch.tensor([0.0, NAN]), torch.tensor([INF, 0.0])):
        for pair in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match="expected a finite mean"):
                frechet_distance(pair[0], eye, pair[1], eye)
        with pytest.raises(ValueError, match="expected a finite mean"):
            FrechetDistance(FlatFeatures(2)).set_reference(Moments(bad, eye))


# Callbacks of one kind


@pytest.mark.parametrize(
    "build",
    [
        lambda: AlphaSchedule(0, 2),
        lambda: ConfidentRegionWarmup(2),
        lambda: SampleGrid(2, steps=1),
        lambda: TrajectoryError(2, 1, 1),
        HealthMonitor,
        frechet,
    ],
)
def test_two_callbacks_of_one_kind_are_refused(build):
    with pytest.raises(ValueError, match=r"expected one \w+, got two: .*; remove one"):
        fit(module(), build(), build())


def test_two_averages_of_one_decay_are_refused():
    with pytest.raises(ValueError, match=r"got ema_0_5 in two of them"):
        fit(module(), StudentEMA([0.9, 0.5]), StudentEMA([0.5]))
    fit(module(), StudentEMA([0.9]), StudentEMA([0.5]), max_steps=1)


@pytest.mark.parametrize("build", [lambda: AlphaSchedule(3, 2), lambda: ConfidentRegionWarmup(5)])
def test_a_warmup_longer_than_the_run_is_said_at_its_start(build, caplog):
    fit(module(), build(), max_steps=4)
    assert f"{type(build()).__name__} takes 5 steps and this run ends at step 4" in caplog.text
    caplog.clear()
    fit(module(), build(), max_steps=5)
    assert "steps and this run ends" not in caplog.text


# Batches and epochs


@pytest.mark.parametrize(
    ("length", "several", "limit", "refused"),
    [
        (2, 4, 1.0, True),
        (4, 3, 1.0, True),
        (4, 2, 1.0, False),
        (8, 4, 6, True),
        (9, 4, 8, False),
        (8, 4, 0.25, True),
    ],
)
def test_accumulation_divides_the_epoch(length, several, limit, refused):
    settings = {"accumulate_grad_batches": several, "limit_train_batches": limit, "max_steps": 1}
    if not refused:
        fit(module(), prior=data(length=length), **settings)
        return
    with pytest.raises(
        ValueError,
        match=rf"accumulate_grad_batches to divide the \d+ batches of an epoch, got {several}",
    ):
        fit(module(), prior=data(length=length), **settings)


def test_a_schedule_of_accumulations_divides_the_epoch():
    fit(module(), GradientAccumulationScheduler({0: 2, 1: 4}), max_steps=1)
    with pytest.raises(ValueError, match=r"divide the 4 batches of an epoch, got 3"):
        fit(module(), GradientAccumulationScheduler({1: 3}), max_steps=1)


def test_the_floor_is_of_the_samples_that_were_measured():
    def floor(samples, **settings):
        metric = FrechetDistance(FlatFeatures(2))
        callback = PeriodicFID(metric, reference_samples=16, steps=2)
        prior = data(val_samples=samples, val_batch_size=4)
        return fit(module(), callback, prior=prior, max_steps=4, **settings).callback_metrics[
            "fid/floor"
        ]

    eight = floor(8)
    assert floor(16, limit_val_batches=2) == eight
    assert floor(16, limit_val_batches=0.5) == eight
    assert floor(16) != eight


def test_one_sample_is_no_validation():
    one = data(val_samples=1, val_batch_size=4)
    with pytest.raises(
        ValueError, match="PeriodicFID compares at least 2 validation samples, got 1"
    ):
        fit(module(), frechet(reference_samples=4, steps=1), prior=one)
    with pytest.raises(ValueError, match="HealthMonitor compares at least 2 validation samples"):
        fit(module(), HealthMonitor(steps=1), prior=one)
