"""freeflow evaluate: a student's samples against its teacher's, or against given statistics: table,
JSON, Markdown.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from freeflow_lightning.commands.feature_options import FeatureOptions
from freeflow_lightning.commands.options import (
    NoiseOptions,
    SamplerOptions,
    StudentOptions,
    WorkOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.start_processes import start, starts_others
from freeflow_lightning.commands.tasks.evaluate import check_sample_counts
from freeflow_lightning.commands.tasks.evaluate import evaluate as measure
from freeflow_lightning.commands.views import evaluation as view
from freeflow_lightning.flow.solver import RuleName
from freeflow_lightning.sampling.processes import join_processes
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.training.output_folder import claim_names


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(FeatureOptions):
    """what the samples are compared with

    Args:
        reference: "teacher" for its own samples, "faces" or "digits" for the real ones, or a file:
            ADM's .npz (mu, sigma, arr_0), torch-fidelity's .pt, or an .npz of pictures (arr_0, as
            `freeflow sample --npz` writes).
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
    reference_samples: int = 10_000
    reference_steps: int = 64
    reference_method: RuleName = "heun"
    reference_seed: int = 1
    floor: bool = True
    paired_samples: int | None = None


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
    check_sample_counts(num_samples, against.reference_samples, against.paired_samples)
    work.check_counts(num_samples)
    if starts_others(work.devices):
        start(work.devices)
        return
    with join_processes() as processes:
        if processes.first:
            claim_names(Path(output), view.NOTE, "evaluate", [view.PAGE])
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        made = measure(
            student,
            guidance,
            num_samples,
            **vars(against),
            **vars(noise),
            **beside.way,
            **work.sizes,
            checkpoint=opening.checkpoint,
            processes=processes,
        )
        if processes.first:
            view.show(made.results)
            page = made.save(output)
            print(f"written: {page}, {page.with_name(view.NOTE)}")


main = partial(run, evaluate)
