"""Which objectives, states and times of a map determine it together."""

from freeflow_lightning.flow import States, TimePair
from freeflow_lightning.objectives import MapObjective
from freeflow_lightning.recipes.correction import Correction


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
