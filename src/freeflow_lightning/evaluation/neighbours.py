"""Student's and teacher's samples of other noise, and each one's nearest on the other side."""

from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.metrics.scores import measure_diversity
from freeflow_lightning.metrics.support import nearest
from freeflow_lightning.sampling.draw import Draw, concat_labels, evaluate_rows, labels_of, pictures
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.student_sampler import StudentSampler


class Neighbours(NamedTuple):
    """Pictures of either side's samples, [n, C, H, W]; index and distance of each one's nearest on
    the other side, [n]; the student's diversity (see `metrics.scores.measure_diversity`).
    """

    student: Tensor
    teacher: Tensor
    to_teacher: tuple[Tensor, Tensor]
    to_student: tuple[Tensor, Tensor]
    diversity: float


def find_neighbours(
    sampler: StudentSampler, network: FeatureNetwork, n: int, seed: int, batch_size: int
) -> Neighbours:
    """n samples of either side, of different noise, and each one's nearest on the other side in
    feature space.
    """
    truth = TeacherSampler(sampler.teacher, "heun", 64, sampler.guidance)
    device = sampler.flow_map.device
    one, other = (Draw(seed, stream=f"diagnosis/{side}") for side in ("student", "teacher"))
    ours = _draw_seen(sampler, network, one, n, batch_size, device)
    theirs = _draw_seen(truth, network, other, n, batch_size, device)
    a, b = ours.rows["features"], theirs.rows["features"]
    return Neighbours(
        ours.pictures,
        theirs.pictures,
        nearest(a, b),
        nearest(b, a),
        measure_diversity(ours.rows, theirs.rows).value,
    )


class Seen(NamedTuple):
    """Samples as pictures, and rows of a FeatureTable: "features" and, where there are classes,
    "labels".
    """

    pictures: Tensor
    rows: dict[str, Tensor]


@torch.no_grad()
def _draw_seen(
    sampler: Sampler,
    network: FeatureNetwork,
    which: Draw,
    n: int,
    batch_size: int,
    device: torch.device,
) -> Seen:
    drawn, features, labels = [], [], []
    for index in torch.arange(n).split(batch_size):
        z, condition = which.noise(sampler.teacher, index, device)
        shown = pictures(sampler.teacher, evaluate_rows(sampler, z, condition))
        drawn.append(shown.cpu())
        features.append(network(shown).float().cpu())
        labels.append(labels_of(sampler.teacher, condition))
    rows = {"features": torch.cat(features)}
    if (classes := concat_labels(labels)) is not None:
        rows["labels"] = classes
    return Seen(torch.cat(drawn), rows)
