"""PeriodicFID: at each validation, the Frechet distance of the student's samples to the teacher's,
and its floor.
"""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.reference import teacher_table
from freeflow_lightning.evaluation.resources import Resources
from freeflow_lightning.flow import check_counts, one_step_rule
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FeatureTable,
    FrechetDistance,
    frechet_distance,
    warn_of_few_samples,
)
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.outputs import ValidationBatch
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.data import validated_samples

log = logging.getLogger(__name__)


class PeriodicFID(Callback):
    """Logs "fid/student" (validation samples against the teacher's own) and "fid/floor" (the
    teacher against itself).

    The floor uses as many samples as the validation does: a student cannot be expected below it,
    and both carry the same bias of the count. The reference is cached, for `freeflow evaluate` too;
    see freeflow_lightning.evaluation.reference. Samples come from the EMA if there is one.

    Args:
        metric: FrechetDistance with a feature network, or InceptionFID; not with `features`.
        reference_samples: teacher samples of the reference.
        method: the teacher's one-step rule.
        steps: the teacher's steps.
        seed: seed of reference and floor; their noise is disjoint from the validation's.
        cache: folder of the cached references; $FREEFLOW_CACHE or ~/.cache/freeflow-lightning if
            not given.
        features: what FID sees samples with where no `metric` is given, by name or a network, as in
            `freeflow evaluate`.
        weights: file of Inception's or DINOv2's weights for `features`.
    """

    def __init__(
        self,
        metric: FrechetDistance | None = None,
        reference_samples: int = 10_000,
        method: str = "heun",
        steps: int = 64,
        seed: int = 1,
        cache: str | None = None,
        features: Name | FeatureNetwork = "auto",
        weights: str | None = None,
    ) -> None:
        if metric is not None and (features != "auto" or weights is not None):
            raise ValueError(
                "PeriodicFID takes a metric, which has its own feature network, or features and "
                "weights: leave one of them out"
            )
        check_counts(2, reference_samples=reference_samples)
        check_counts(1, steps=steps)
        check_counts(-math.inf, seed=seed)
        one_step_rule(method)
        self.metric = metric
        self.features = features
        self.weights = weights
        self.reference_samples = reference_samples
        self.method = method
        self.steps = steps
        self.seed = seed
        self.cache = Path(cache) if cache else None
        self._floor: float | None = None
        self._floor_samples = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: Recipe) -> None:
        if not sum(trainer.num_val_batches):
            log.warning(
                "PeriodicFID has nothing to measure: this run validates nothing "
                "(data.val_samples, limit_val_batches)"
            )

    # its sums outlive Trainer.validate, and inference tensors cannot be added to later
    @torch.inference_mode(False)
    @torch.no_grad()
    def on_validation_start(self, trainer: Trainer, pl_module: Recipe) -> None:
        if trainer.sanity_checking:
            return
        count = validated_samples(trainer)
        if self._floor is not None and self._floor_samples == count:
            return
        if count < 2:
            raise ValueError(
                f"PeriodicFID compares at least 2 validation samples, got {count}: "
                "raise data.val_samples or trainer.limit_val_batches, or remove the callback"
            )
        metric = self.metric_for(pl_module)
        warn_of_few_samples(min(count, self.reference_samples), metric.num_features)
        reference = self._table(trainer, pl_module, "reference", self.reference_samples)
        floor = self._table(trainer, pl_module, "floor", count)
        metric.reset()
        # on the first rank: states are summed over the ranks
        if reference is not None and floor is not None:
            metric.set_reference(reference.moments["features"], reference.n)
            self._floor = float(
                frechet_distance(*reference.moments["features"], *floor.moments["features"])
            )
        self._floor = _processes(trainer).share(self._floor)
        self._floor_samples = count

    def metric_for(self, module: Recipe) -> FrechetDistance:
        """Return the metric, on the module's device; made of `features` when it is first asked
        for.
        """
        if self.metric is None:
            network = pick_features(self.features, self.weights, module.teacher, module.device)
            self.metric = FrechetDistance(network)
        return self.metric.to(module.device)

    def _table(
        self, trainer: Trainer, pl_module: Recipe, stream: str, count: int
    ) -> FeatureTable | None:
        return teacher_table(
            TeacherSampler(
                pl_module.teacher, self.method, self.steps, pl_module.evaluation_guidance
            ),
            self.metric_for(pl_module).features,
            count=count,
            seed=self.seed,
            stream=stream,
            resources=Resources(device=pl_module.device, processes=_processes(trainer)),
            folder=self.cache,
            needs_rows=False,
        )

    # its sums outlive Trainer.validate, and inference tensors cannot be added to later
    @torch.inference_mode(False)
    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Recipe,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking:
            return
        evaluation: ValidationBatch = outputs
        keep = batch.indices < batch.total
        self.metric_for(pl_module).update(
            pictures(pl_module.teacher, evaluation.samples[keep.to(evaluation.samples.device)]),
            real=False,
        )

    # its sums outlive Trainer.validate, and inference tensors cannot be added to later
    @torch.inference_mode(False)
    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Recipe) -> None:
        if trainer.sanity_checking:
            return
        assert self._floor is not None  # on_validation_start has seen to it
        metric = self.metric_for(pl_module)
        figures = {"fid/student": float(metric.compute()), "fid/floor": self._floor}
        pl_module.log_dict(figures, rank_zero_only=False, batch_size=1)
        metric.reset()


def _processes(trainer: Trainer) -> Processes:
    return Processes(trainer.global_rank, trainer.world_size, trainer.local_rank)
