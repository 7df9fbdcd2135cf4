"""The reference that an evaluation is given by name or file, as features."""

from pathlib import Path

from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.examples.faces.data import REFERENCE
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FeatureTable,
    read_statistics,
    see_pictures,
    to_uint8,
)
from freeflow_lightning.metrics.statistics import EXPECTED
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.students.flow_map import FlowMap


def read_reference(
    reference: str, features: FeatureNetwork, student: FlowMap, processes: Processes
) -> FeatureTable | None:
    """Statistics of real faces, of real digits or of a file; None for the teacher, which is drawn,
    and on other processes than the first.
    """
    if reference == "teacher" or not processes.first:
        return None
    if reference == "digits":
        digits, labels = load_digits()
        return see_pictures(to_uint8(digits), labels, features, device=student.device)
    path = REFERENCE if reference == "faces" else Path(reference)
    if not path.exists():
        known = EXPECTED.removeprefix("expected ")
        raise FileNotFoundError(
            f"no statistics at {reference}: expected teacher, faces or digits, or {known}"
        )
    return read_statistics(path, features, device=student.device)
