"""Refusals of settings of a map: those that do not determine it, or do not fit its networks."""

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy

from freeflow_lightning.flow import States, TimePair
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.objectives import MapObjective
from freeflow_lightning.recipes.correction import Correction
from freeflow_lightning.recipes.student_checks import check_time_step, refuse_dropout
from freeflow_lightning.teachers import Teacher


def check_settings(
    objective: MapObjective,
    states: States,
    times: TimePair,
    anchor_fraction: float,
    correction: Correction | None = None,
) -> None:
    """Refuse settings that do not determine the map, or one of which has no effect.

    Raises:
        ValueError: an objective on states or times that it cannot be trained on.
    """
    form, source = type(objective).__name__, type(states).__name__
    if states.needs_data and states.data is None:
        raise ValueError(
            f"{source} needs data, got none: name its samples (data=DigitsSamples()), or use "
            "StudentPath(), TeacherPath() or Renoised(), which draw their states from the networks"
        )
    if states.only_prior and not times.from_prior:
        raise ValueError(
            f"{source} has states at t = 1 alone, and {type(times).__name__} starts maps "
            "elsewhere: use times FromPrior(delta), or states StudentPath() or TeacherPath()"
        )
    if times.from_prior and not objective.closed_at_prior:
        raise ValueError(
            f"{form} on maps from the prior alone asks the student where it is never trained, and "
            "the error grows: use times that start anywhere (SortedPair(), PartOfPath(...)) with "
            "StudentPath() or TeacherPath(), or a form that is closed at the prior (Lagrangian, "
            "DiscreteLagrangian, Endpoint)"
        )
    if times.from_prior and not states.only_prior:
        raise ValueError(
            f"{source} has no effect where every map starts at the prior: use states Prior(), or "
            "times that start anywhere"
        )
    if objective.needs_anchor and not anchor_fraction:
        raise ValueError(
            f"{form} does not ask the teacher, which every split map solves: set anchor_fraction, "
            "to 0.5 for example"
        )
    corrects_later = correction is not None and correction.starts is not None
    if corrects_later and (times.from_prior or times.to_data):
        raise ValueError(
            f"correction.starts follows the student's own path to later points and corrects the "
            f"maps from there, and {type(times).__name__} does not train both: leave starts out, "
            "or use times that start and end anywhere (SortedPair(), PartOfPath(...))"
        )


def check_inner_map(objective: MapObjective, times: TimePair, diagonal_fraction: float) -> None:
    """Refuse settings that do not determine the inner map (ValueError)."""
    form = type(objective).__name__
    if times.from_prior and not objective.closed_at_prior:
        raise ValueError(
            f"{form} on inner maps from s = 1 alone asks the student where it is never trained: "
            "use times that start anywhere, such as SortedPair(Uniform())"
        )
    if objective.needs_anchor and not diagonal_fraction:
        raise ValueError(
            f"{form} does not ask the teacher, which every split map solves: set "
            "diagonal_fraction, to 0.5 for example"
        )


def check_differences(
    objective: MapObjective, student: ScalarConditioned, teacher: Teacher | None
) -> None:
    """Refuse a student whose outputs cannot be subtracted as the objective does (ValueError).

    Args:
        objective: of the map.
        student: its network.
        teacher: whose states it is asked at; not asked if None.
    """
    if objective.subtracts_outputs:
        refuse_dropout(student, objective)
    if objective.time_step and teacher is not None:
        check_time_step(student, teacher, objective.time_step)


def check_sharding(objective: MapObjective, strategy: Strategy) -> None:
    """Refuse to shard a student that is differentiated in forward mode (ValueError)."""
    if isinstance(strategy, ModelParallelStrategy) and objective.uses_dual_numbers:
        raise ValueError(
            f"{type(objective).__name__} differentiates the student in forward mode, "
            "which networks sharded by FSDP2 do not pass: use "
            "derivative=CentralDifference(), a discrete form (DiscreteLagrangian, "
            "DiscreteEulerian), or another strategy"
        )


def count_paths(states: int, per_path: int) -> int:
    """Return how many paths a batch has, of so many states in all and on each (or ValueError)."""
    paths, rest = divmod(states, per_path)
    if rest:
        raise ValueError(
            f"expected a multiple of states.per_path={per_path} rows of the map in a batch, got "
            f"{states}: change the batch size or the correction's fraction"
        )
    return paths
