"""A student's samples against its teacher's own, or against given statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import torch

from freeflow_lightning.commands.views import evaluation as view
from freeflow_lightning.commands.views.progress import progress_bar, starter
from freeflow_lightning.evaluation.comparison import Comparison, TeacherReference
from freeflow_lightning.evaluation.given_reference import read_reference
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.reference import feature_facts
from freeflow_lightning.evaluation.resources import Resources
from freeflow_lightning.evaluation.scores import ClassRow, Result
from freeflow_lightning.flow import check_counts
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.flow.solver import RuleName
from freeflow_lightning.metrics import FeatureNetwork, Score
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.expect_flow_map import expect_flow_map
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.sampler_options import (
    StepOptions,
    draw_of_options,
    samplers_side_by_side,
)
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.output_folder import publish

INTERVALS = (
    "95 %: FID and KID by the jackknife over 10 groups of samples, others binomial or standard "
    "errors of a mean; "
    "the reference is held fixed"
)
PAIRED = 512


@dataclass(frozen=True)
class Evaluation:
    """Scores of a student, with intervals and the teacher's own.

    Args:
        results: the first one in full; the same student's at other numbers of steps may follow.
            Empty on other processes than the first.
    """

    results: tuple[Result, ...]

    @property
    def scores(self) -> dict[str, Score]:
        """The scores by name: fid, kid, precision, recall, endpoint_error and others."""
        return self.results[0].scores

    @property
    def floor(self) -> dict[str, Score]:
        """What the teacher scores against itself, by name; empty for given statistics."""
        return self.results[0].floor

    @property
    def classes(self) -> list[ClassRow]:
        """The figures of each class."""
        return self.results[0].classes

    @property
    def about(self) -> dict[str, Any]:
        """How the scores were made, as JSON."""
        return self.results[0].about

    def as_json(self) -> dict[str, Any]:
        """Return what evaluation.json says."""
        return view.as_json(self.results)

    def save(self, folder: str | Path = "evaluation") -> Path:
        """Write evaluation.json and evaluation.md into a folder; returns the latter's path.

        Raises:
            ValueError: the folder holds files of these names that freeflow has not written.
        """
        target = Path(folder)
        pages = {view.PAGE: view.evaluation_markdown(self.results).encode()}
        publish(target, view.NOTE, "evaluate", self.as_json(), pages)
        return target / view.PAGE

    def __str__(self) -> str:
        return view.evaluation_text(self.results)

    def _repr_markdown_(self) -> str:
        return view.evaluation_markdown(self.results)

    def _repr_html_(self) -> str:
        return view.html(self.results)


def evaluate(
    flow_map: FlowMap,
    guidance: float | None = None,
    num_samples: int = 10_000,
    *,
    reference: str = "teacher",
    features: Name | FeatureNetwork = "auto",
    weights: str | None = None,
    reference_samples: int = 10_000,
    reference_steps: int = 64,
    reference_method: RuleName = "heun",
    reference_seed: int = 1,
    floor: bool = True,
    paired_samples: int | None = None,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    balanced: bool = False,
    teacher: bool = False,
    steps: int | None = None,
    sampler: SamplerName | None = None,
    noise_share: float | None = None,
    method: RuleName | None = None,
    batch_size: int = 256,
    decode_batch_size: int = 64,
    checkpoint: str = "a FlowMap in memory",
    processes: Processes = Processes(),  # noqa: B008 (immutable)
) -> Evaluation:
    """Measure a student's samples: against its teacher's own, which needs no data, or against given
    statistics.

    A student that was trained for several steps is measured at 1, 2, 4 and 8, unless `steps` says
    one number. The teacher's samples are kept in $FREEFLOW_CACHE (~/.cache/freeflow-lightning).

    Args:
        flow_map: the student, on the device to use; one that holds no teacher wants a file as the
            reference.
        guidance: of the samples, and of the teacher's that they are compared with; the student's
            evaluation_guidance if not given.
        num_samples: samples to measure, at least 2; FID depends on how many.
        reference: "teacher" for its own samples, "faces" or "digits" for the real ones, or a file
            of statistics or pictures (ADM's .npz, torch-fidelity's .pt).
        features: what samples are seen with: a name, or a FeatureNetwork.
        weights: the file of Inception's or DINOv2's weights.
        reference_samples: samples of the teacher to compare with.
        reference_steps: the teacher's steps.
        reference_method: the teacher's one-step rule.
        reference_seed: seed of the teacher's samples.
        floor: draw the teacher a second time too: what a perfect student would score.
        paired_samples: samples whose endpoint is compared with the teacher's for the same noise;
            512 if not given.
        seed: seed of the noise and of drawn classes.
        classes: class labels, repeated in turn; drawn uniformly if not given.
        balanced: every class in turn, equally many of each.
        teacher: measure the teacher itself instead of the student.
        steps: from noise to a sample; the teacher's are 64 if not given.
        sampler: how the student takes more steps than one: chain, renoise or gamma.
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 to 1.
        method: the teacher's one-step rule where it is measured; heun if not given.
        batch_size: samples per network evaluation; has no influence on the result.
        decode_batch_size: samples that a latent teacher's decoder takes at once.
        checkpoint: what the record calls the student.
        processes: that share the work; each calls this function, the first one has the result.

    Raises:
        ValueError: fewer than 2 samples, a teacher that the student does not hold, or options that
            have no effect.
        FileNotFoundError: no such reference or weights.
    """
    expect_flow_map(flow_map)
    check_sample_counts(num_samples, reference_samples, paired_samples)
    guidance = flow_map.evaluation_guidance if guidance is None else guidance
    way = StepOptions(steps, method, sampler, noise_share)
    samplers = samplers_side_by_side(flow_map, guidance, teacher, way)
    is_teacher = reference == "teacher"
    refuse_missing_teacher(flow_map, checkpoint, is_teacher or teacher or bool(paired_samples))
    which = draw_of_options(flow_map.teacher, seed, classes, balanced)
    seen_by = pick_features(features, weights, flow_map.teacher, flow_map.device)
    truth = TeacherSampler(flow_map.teacher, reference_method, reference_steps, guidance)
    comparison = Comparison(
        which,
        num_samples,
        seen_by,
        truth,
        count_pairs(flow_map, num_samples, paired_samples),
        read_reference(reference, seen_by, flow_map, processes),
        resources=Resources(batch_size, decode_batch_size, flow_map.device, processes),
    )
    with progress_bar(processes.first) as bar:
        begin = starter(bar, processes.size)
        if is_teacher:
            drawn = TeacherReference(truth, reference_samples, reference_seed, floor)
            comparison = comparison.with_teacher(drawn, begin)
        about = evaluation_facts(
            checkpoint, samplers[0], comparison, reference, reference_samples, reference_seed
        )
        results = [comparison.measure(each, about, begin) for each in samplers]
    return Evaluation(tuple(result for result in results if result is not None))


def check_sample_counts(
    num_samples: int, reference_samples: int, paired_samples: int | None
) -> None:
    """Raise a ValueError unless there are samples to compare."""
    check_counts(-inf, num_samples=num_samples, reference_samples=reference_samples)
    check_counts(-inf, paired_samples=paired_samples or 0)
    if min(num_samples, reference_samples) < 2 or (paired_samples or 0) < 0:
        raise ValueError(
            f"expected at least 2 samples on either side, got {num_samples} and "
            f"{reference_samples} (paired {paired_samples})"
        )


def refuse_missing_teacher(student: FlowMap, checkpoint: str, is_asked: bool) -> None:
    """Raise a ValueError where a teacher is asked for that a student does not hold."""
    if isinstance(student.teacher, LatentSpace) and is_asked:
        raise ValueError(
            f"{checkpoint} holds no teacher to compare with or to draw from: give --reference FILE "
            f"alone"
        )


def count_pairs(student: FlowMap, num_samples: int, paired_samples: int | None) -> int:
    """Samples whose endpoints are compared: none where there is no teacher."""
    if isinstance(student.teacher, LatentSpace):
        return 0
    return min(num_samples, PAIRED if paired_samples is None else paired_samples)


def evaluation_facts(
    checkpoint: str,
    sampler: Sampler,
    comparison: Comparison,
    reference: str,
    reference_samples: int,
    reference_seed: int,
) -> dict[str, Any]:
    """Return how the figures are made, beside who draws, as JSON."""
    if not comparison.resources.processes.first:
        return {}  # the first process writes them
    precision = next(sampler.network.parameters()).dtype
    compared: dict[str, Any]
    if reference == "teacher":
        truth = comparison.truth
        weights = fingerprint(truth.teacher, comparison.resources.device)[:16]
        compared = {"teacher": weights, **truth.settings()}
        compared |= {"samples": reference_samples, "seed": reference_seed}
    else:
        table = comparison.reference
        pictures = () if table is None else table.rows.get("features", ())
        compared = {"file": reference, "pictures in it": len(pictures)}
    return {
        "checkpoint": checkpoint,
        "samples": comparison.num_samples,
        **comparison.which.facts(),
        "reference": compared,
        "features": feature_facts(comparison.features) | {"note": comparison.features.note},
        "precision": f"{precision}, float32 matmul {torch.get_float32_matmul_precision()}",
        "pictures": "uint8 by clamp(127.5 x + 128), rounded down",
        "evaluator": f"freeflow-lightning {version('freeflow-lightning')}, torch "
        f"{torch.__version__}, {comparison.resources.device}",
        "intervals": INTERVALS,
    }
