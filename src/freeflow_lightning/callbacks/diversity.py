"""DiversityAlarm: says, class by class, where the student's samples draw together, and can stop the
run.
"""

import logging
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from freeflow_lightning.callbacks.checks import check_distillation, refuse_second
from freeflow_lightning.callbacks.health import measure_spread
from freeflow_lightning.flow import check_counts, check_numbers, take
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.data import validation_range

log = logging.getLogger(__name__)


@final
class DiversityAlarm(Callback):
    """At each validation compares the spread of the student's samples of single classes with the
    teacher's of the same noise: 1 is right, and a class whose share falls below `least` has lost
    modes, which the spread over all classes does not show.

    It logs "diversity/least" and "diversity/mean" over the classes. A teacher of prompts is asked
    for single prompts; one without conditions for all of its samples.

    Args:
        least: share of the teacher's spread below which it warns, once per class.
        classes: how many each process looks at, evenly spaced.
        count: samples of each.
        steps: the teacher's Heun steps for them, once in a run.
        stop: end the run as well.
    """

    def __init__(
        self,
        least: float = 0.5,
        classes: int = 8,
        count: int = 32,
        steps: int = 16,
        stop: bool = False,
    ) -> None:
        check_numbers(0, without_low=True, least=least)
        check_counts(1, classes=classes, steps=steps)
        check_counts(2, count=count)
        self.least = least
        self.classes = classes
        self.count = count
        self.steps = steps
        self.stop = stop
        self._spreads: list[float] | None = None
        self._warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_distillation(pl_module, self, "compares a student with its teacher")
        refuse_second(trainer, self)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Distillation) -> None:
        if trainer.sanity_checking:
            return
        mine = self._classes_of(trainer, pl_module)
        draws = [self._draw(trainer, pl_module, k, mine) for k in range(mine)]
        if self._spreads is None:
            sampler = TeacherSampler(
                pl_module.teacher, "heun", self.steps, pl_module.evaluation_guidance
            )
            self._spreads = [measure_spread(sampler(z, condition)) for z, condition in draws]
        spreads = [measure_spread(pl_module.generate(z, condition)) for z, condition in draws]
        ratios = torch.tensor(spreads) / torch.tensor(self._spreads)
        every = pl_module.all_gather(ratios.to(pl_module.device))
        assert isinstance(every, Tensor)  # as it was given
        shares = every.reshape(-1, mine).T.flatten().tolist()  # in the order of `place`
        pl_module.log("diversity/least", min(shares), rank_zero_only=True)
        pl_module.log("diversity/mean", sum(shares) / len(shares), rank_zero_only=True)
        self._judge(trainer, pl_module, shares)

    def _judge(self, trainer: Trainer, module: Distillation, shares: list[float]) -> None:
        narrow = {
            self._name(module, place, len(shares)): share
            for place, share in enumerate(shares)
            if share < self.least
        }
        if trainer.is_global_zero and narrow.keys() - self._warned:
            worst = min(narrow, key=lambda name: narrow[name])
            said = (
                f"step {trainer.global_step}: samples of {', '.join(narrow)} spread less than "
                f"{self.least:g} of the teacher's, {worst} least with {narrow[worst]:.2f}: "
                f"{module.spread_advice}"
            )
            log.warning(f"{said}; the run stops" if self.stop else said)
        self._warned |= narrow.keys()
        if narrow and self.stop:
            trainer.should_stop = True

    def _classes_of(self, trainer: Trainer, module: Distillation) -> int:
        """Return how many classes each process looks at: as many as are asked for, and as there
        are.
        """
        known = module.teacher.num_classes
        if known:
            return min(self.classes, -(-known // trainer.world_size))
        drawn = module.teacher.draw_condition(1, torch.Generator().manual_seed(0))
        return 1 if drawn is None else self.classes

    def _draw(
        self, trainer: Trainer, module: Distillation, k: int, mine: int
    ) -> tuple[Tensor, Any]:
        """Noise [count, ...] and the condition of this process's k-th class of `mine`."""
        place, places = k * trainer.world_size + trainer.global_rank, mine * trainer.world_size
        index = torch.arange(place * self.count, (place + 1) * self.count)
        teacher, seed = module.teacher, validation_range(trainer).seed
        z, condition = teacher.draw_indexed(
            index, seed=seed, stream="diversity", device=module.device
        )
        if teacher.num_classes:
            label = label_at(place, places, teacher.num_classes)
            labels = torch.full((self.count,), label, device=module.device)
            return z, teacher.conditions.of_classes(labels)
        return z, take(condition, torch.zeros(self.count, dtype=torch.int64, device=module.device))

    def _name(self, module: Distillation, place: int, places: int) -> str:
        if module.teacher.num_classes:
            return f"class {label_at(place, places, module.teacher.num_classes)}"
        return f"condition {place}"


def label_at(place: int, places: int, num_classes: int) -> int:
    """Return the class at one of several places that are evenly spaced over all classes.

    >>> [label_at(place, 4, 10) for place in range(4)], [label_at(k, 4, 2) for k in range(4)]
    ([0, 2, 5, 7], [0, 0, 1, 1])
    """
    return place * num_classes // places
