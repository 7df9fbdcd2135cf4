"""What the demo's page answers: a student's pictures, its teacher's beside them, a strip along delta,
the best of many noises; as arrays, with what they cost.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from freeflow_lightning.evaluation.pick_features import pick_features
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import Draw, evaluate_rows, pictures
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.sheets import tile
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.search import ClassScore
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.teachers import LatentSpace, Prompts

SHOWN = 8
"""Samples on a sheet, and steps of a strip."""
SIDE = 96
"""Pixels that a picture is enlarged to, at least."""
EDGE = 2
"""Pixels of white around each."""
ANY = "any"
"""In place of a class: each sample its own."""


class Answer(NamedTuple):
    """A picture, uint8 [height, width, 3], and a line of words about it."""

    picture: np.ndarray
    words: str


@final
@dataclass(frozen=True)
class Demo:
    """A student that answers questions.

    Args:
        flow_map: the student; its teacher answers too where it holds one.
    """

    flow_map: FlowMap

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher can be drawn from."""
        return not isinstance(self.flow_map.teacher, LatentSpace)

    @property
    def goes_anywhere(self) -> bool:
        """Whether the student maps noise to times between, which a strip shows."""
        return self.flow_map.pairs.leads_between

    @cached_property
    def classifier(self) -> FeatureNetwork | None:
        """What knows the classes of the samples; None where nothing does, or its weights are missing."""
        teacher = self.flow_map.teacher
        if not teacher.num_classes:
            return None
        try:
            features = pick_features("auto", None, teacher, self.flow_map.device)
        except FileNotFoundError:
            return None  # classes are told by their numbers, and nothing is searched
        return features if features.num_classes == teacher.num_classes else None

    @cached_property
    def choices(self) -> list[str]:
        """The classes by name or number, or the numbers of the prompts; empty without either."""
        teacher = self.flow_map.teacher
        if isinstance(teacher.conditions, Prompts):
            return [ANY, *map(str, range(len(teacher.conditions)))]
        if self.classifier is not None and self.classifier.class_names:
            return [ANY, *self.classifier.class_names]
        numbers = [f"class {k}" for k in range(teacher.num_classes)]
        return [ANY, *numbers] if numbers else []

    def student(self, choice: str, guidance: float, seed: int, steps: int) -> Answer:
        """Return the student's samples."""
        name = self.flow_map.trained.sampler
        return self._draw(StudentSampler(self.flow_map, guidance, steps, name), choice, seed)

    def teacher(self, choice: str, guidance: float, seed: int, steps: int) -> Answer:
        """Return the teacher's samples of the same noise, in Heun steps."""
        teacher = self.flow_map.teacher
        return self._draw(TeacherSampler(teacher, "heun", steps, guidance), choice, seed)

    def strip(self, choice: str, guidance: float, seed: int) -> Answer:
        """f(z, delta) of one noise, from delta 1/8 to 1."""
        z, condition = self._noise(choice, seed, 1)
        rows = torch.zeros(SHOWN, dtype=torch.int64, device=z.device)
        delta = torch.arange(1, SHOWN + 1, device=z.device) / SHOWN
        states = self.flow_map(z[rows], take(condition, rows), guidance, delta)
        return Answer(self._sheet(states, columns=SHOWN), "f(z, delta) of the first noise")

    def best(self, choice: str, guidance: float, seed: int, candidates: int) -> Answer:
        """Return the samples that the verifier likes best among so many, the best first."""
        assert self.classifier is not None  # the page asks nothing else
        judge = ClassScore(self.classifier)
        z, condition = self._noise(choice, seed, candidates)
        x = StudentSampler(self.flow_map, guidance)(z, condition)
        score = judge(pictures(self.flow_map.teacher, x), condition)
        order = score.argsort(descending=True)[:SHOWN]
        words = (
            f"{candidates} evaluations; log probability of the class {score[order[0]]:.2g} for the "
            f"best, {score[0]:.2g} for the first"
        )
        return Answer(self._sheet(x[order]), words)

    def _draw(self, sampler: Sampler, choice: str, seed: int) -> Answer:
        z, condition = self._noise(choice, seed, SHOWN)
        start = time.perf_counter()
        x = evaluate_rows(sampler, z, condition).cpu()
        spent = (time.perf_counter() - start) * 1000 / SHOWN
        cost = f"{sampler.evaluations} evaluation{'s' if sampler.evaluations > 1 else ''}"
        return Answer(self._sheet(x), f"{sampler.name}: {cost}, {spent:.1f} ms per sample")

    def _noise(self, choice: str, seed: int, count: int) -> tuple[Tensor, Any]:
        """Noise of the seed, as `freeflow sample` draws it, and conditions."""
        teacher, device, index = self.flow_map.teacher, self.flow_map.device, torch.arange(count)
        if choice in ("", ANY):
            return Draw(seed).noise(teacher, index, device)
        number = self.choices.index(choice) - 1
        if isinstance(teacher.conditions, Prompts):
            rows = torch.full((count,), number)
            return Draw(seed).states(teacher, index, device), teacher.conditions.rows(rows, device)
        return Draw(seed, (number,)).noise(teacher, index, device)

    def _sheet(self, x: Tensor, columns: int = SHOWN // 2) -> np.ndarray:
        """Samples as one picture that a browser shows large enough."""
        drawn = pictures(self.flow_map.teacher, x.to(self.flow_map.device)).cpu()
        if drawn.ndim != 4:
            return plots.pixels(plots.points({"samples": plots.plane(drawn)}))
        times = max(1, -(-SIDE // drawn.shape[-1]))
        large = drawn.repeat_interleave(times, 2).repeat_interleave(times, 3)
        sheet = tile(pad(large, [EDGE] * 4, value=255), columns)
        return sheet if sheet.ndim == 3 else np.repeat(sheet[..., None], 3, 2)
