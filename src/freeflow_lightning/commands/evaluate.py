"""freeflow evaluate: a student's samples against its teacher's, or against given statistics: table,
JSON, Markdown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from freeflow_lightning.commands.options import (
    NoiseOptions,
    Options,
    Rule,
    SamplerOptions,
    StudentOptions,
    WorkOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.evaluation import NOTE, PAGE, publish_evaluation
from freeflow_lightning.commands.views.progress import progress_bar, starter
from freeflow_lightning.evaluation.comparison import Comparison, Resources, Start, TeacherReference
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.reference import feature_facts
from freeflow_lightning.evaluation.scores import Result
from freeflow_lightning.examples.faces.data import REFERENCE
from freeflow_lightning.metrics import FeatureNetwork, read_statistics
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.processes import joined, start, starts_others
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.output_folder import claim_names

INTERVALS = (
    "95 %: FID and KID by the jackknife over 10 groups of samples, others binomial or standard "
    "errors of a mean; "
    "the reference is held fixed"
)
PAIRED = 512


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(Options):
    """what the samples are compared with

    Args:
        reference: "teacher" for its own samples, "faces" for the real faces that ship, or a file:
            ADM's .npz (mu, sigma, arr_0), torch-fidelity's .pt, or an .npz of pictures (arr_0, as
            `freeflow sample --npz` writes).
        features: auto, faces, digits, lite0, flat (the plain numbers), inception, dinov2, or a
            class_path of your own FeatureNetwork.
        weights: the file of Inception's or DINOv2's weights.
        reference_samples: samples of the teacher to compare with.
        reference_steps: the teacher's steps.
        reference_method: the teacher's one-step rule.
        reference_seed: seed of the teacher's samples; their noise is never that of the samples
            measured.
        floor: draw the teacher a second time too: what a perfect student would score at this number
            of samples.
        paired_samples: samples whose endpoint is compared with the teacher's for the same noise;
            512 if not given.
    """

    reference: str = "teacher"
    features: Name | FeatureNetwork = "auto"
    weights: str | None = None
    reference_samples: int = 10_000
    reference_steps: int = 64
    reference_method: Rule = "heun"
    reference_seed: int = 1
    floor: bool = True
    paired_samples: int | None = None

    @property
    def is_teacher(self) -> bool:
        """Whether the teacher's own samples are the reference."""
        return self.reference == "teacher"

    def check_counts(self, num_samples: int) -> None:
        """Raise a ValueError unless there are samples to compare."""
        if min(num_samples, self.reference_samples) < 2 or (self.paired_samples or 0) < 0:
            raise ValueError(
                f"expected at least 2 samples on either side, got {num_samples} and "
                f"{self.reference_samples} (paired {self.paired_samples})"
            )

    def pairs(self, student: FlowMap, num_samples: int) -> int:
        """Samples whose endpoints are compared: none where there is no teacher."""
        if isinstance(student.teacher, LatentSpace):
            return 0
        return min(num_samples, PAIRED if self.paired_samples is None else self.paired_samples)

    def compared(
        self, student: FlowMap, guidance: float, which: Draw, count: int, resources: Resources
    ) -> Comparison:
        """The comparison with a given file, or one that wants the teacher's samples yet."""
        seen_by = pick_features(self.features, self.weights, student.teacher, student.device)
        table = None
        if not self.is_teacher and resources.processes.first:
            path = REFERENCE if self.reference == "faces" else self.reference
            table = read_statistics(path, seen_by, device=student.device)
        truth = TeacherSampler(
            student.teacher, self.reference_method, self.reference_steps, guidance
        )
        pairs = self.pairs(student, count)
        return Comparison(which, count, seen_by, truth, pairs, table, resources=resources)

    def with_reference(self, comparison: Comparison, start: Start) -> Comparison:
        """The comparison with its reference drawn, where that is the teacher."""
        if not self.is_teacher:
            return comparison
        teacher = TeacherReference(
            comparison.truth, self.reference_samples, self.reference_seed, self.floor
        )
        return comparison.with_teacher(teacher, start)

    def facts(self, comparison: Comparison) -> dict[str, Any]:
        """Return what the reference is, as JSON."""
        table, truth = comparison.reference, comparison.truth
        if not self.is_teacher:
            pictures = () if table is None else table.rows.get("features", ())
            return {"file": self.reference, "pictures in it": len(pictures)}
        weights = fingerprint(truth.teacher, comparison.resources.device)[:16]
        made = {"teacher": weights, **truth.settings()}
        return made | {"samples": self.reference_samples, "seed": self.reference_seed}


def evaluate(
    opening: StudentOptions,
    guidance: float | None = None,
    num_samples: int = 10_000,
    output: str = "evaluation",
    *,
    against: ReferenceOptions,
    noise: NoiseOptions,
    beside: SamplerOptions,
    work: WorkOptions,
) -> None:
    """Measure a student's samples: against its teacher's own, which needs no data, or against given
    statistics.

    Prints a table and writes evaluation.json and evaluation.md; a student that was trained for
    several steps is measured at 1, 2, 4 and 8, side by side, unless --steps says one number. The
    teacher's samples are kept in $FREEFLOW_CACHE (~/.cache/freeflow-lightning). For the FID-50K of
    papers: --reference VIRTUAL_imagenet256_labeled.npz --num_samples 50000 --features inception.
    Under torchrun, or with --devices, the processes share the work.

    Args:
        opening: the student; one that holds no teacher wants --reference FILE.
        guidance: guidance scale of the samples, and of the teacher's that they are compared with;
            the run's evaluation_guidance if not given.
        num_samples: samples to measure; FID depends on how many, so compare equal numbers.
        output: folder to write to; made if it does not exist.
        against: what they are compared with.
        noise: the noise and the classes.
        beside: what takes the place of the checkpoint's own, and who is measured.
        work: where it runs, and how much at once.
    """
    against.check_counts(num_samples)
    work.check_counts(num_samples)
    if starts_others(work.devices):
        start(work.devices)
        return
    with joined() as processes:
        if processes.first:
            claim_names(Path(output), NOTE, "evaluate", [PAGE])
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        guidance = student.evaluation_guidance if guidance is None else guidance
        samplers = beside.samplers_side_by_side(student, guidance)
        refuse_missing_reference(student, opening.checkpoint, against, beside)
        which = noise.draw(student.teacher)
        resources = Resources(work.batch_size, work.decode_batch_size, student.device, processes)
        comparison = against.compared(student, guidance, which, num_samples, resources)
        publish_evaluation(
            measure_all(samplers, comparison, against, opening.checkpoint), Path(output)
        )


def measure_all(
    samplers: Sequence[Sampler], comparison: Comparison, against: ReferenceOptions, checkpoint: str
) -> list[Result]:
    """The results of the samplers, under a progress bar; none on other processes than the first."""
    processes = comparison.resources.processes
    with progress_bar(processes.first) as bar:
        begin = starter(bar, processes.size)
        comparison = against.with_reference(comparison, begin)
        about = evaluation_facts(checkpoint, samplers[0], against, comparison)
        results = [comparison.measure(sampler, about, begin) for sampler in samplers]
    return [result for result in results if result is not None]


def refuse_missing_reference(
    student: FlowMap, checkpoint: str, against: ReferenceOptions, beside: SamplerOptions
) -> None:
    """Raise a ValueError where a teacher is asked for that a student does not hold."""
    asked = against.is_teacher or beside.teacher or against.paired_samples
    if isinstance(student.teacher, LatentSpace) and asked:
        raise ValueError(
            f"{checkpoint} holds no teacher to compare with or to draw from: give --reference FILE "
            f"alone"
        )


def evaluation_facts(
    checkpoint: str, sampler: Sampler, against: ReferenceOptions, comparison: Comparison
) -> dict[str, Any]:
    """Return how the figures are made, beside who draws, as JSON."""
    if not comparison.resources.processes.first:
        return {}  # the first process writes them
    precision = next(sampler.network.parameters()).dtype
    return {
        "checkpoint": checkpoint,
        "samples": comparison.num_samples,
        **comparison.which.facts(),
        "reference": against.facts(comparison),
        "features": feature_facts(comparison.features) | {"note": comparison.features.note},
        "precision": f"{precision}, float32 matmul {torch.get_float32_matmul_precision()}",
        "pictures": "uint8 by clamp(127.5 x + 128), rounded down",
        "evaluator": f"freeflow-lightning {version('freeflow-lightning')}, torch "
        f"{torch.__version__}, {comparison.resources.device}",
        "intervals": INTERVALS,
    }


main = partial(run, evaluate)
