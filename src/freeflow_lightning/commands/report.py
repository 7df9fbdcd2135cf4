"""freeflow report: a run's student beside its teacher at 1, 2, 4, 8 and 64 steps, same noise:
figures, pictures, curves.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from freeflow_lightning.commands.options import DeviceOptions, TeacherOptions
from freeflow_lightning.commands.run import Options
from freeflow_lightning.commands.run import run as run_verb
from freeflow_lightning.commands.tasks.report import HTML, NOTE, PAGE
from freeflow_lightning.commands.tasks.report import report as compare
from freeflow_lightning.commands.views.report import PICTURES
from freeflow_lightning.evaluation.pick_features import Name
from freeflow_lightning.evaluation.steps_table import Reference
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.students.open_student import open_student, pick_device
from freeflow_lightning.training.output_folder import claim_names
from freeflow_lightning.training.run_folder import newest
from freeflow_lightning.training.training_checkpoint import find_checkpoint


@dataclass(frozen=True, kw_only=True)
class StepsOptions(Options):
    """the student's steps

    Args:
        steps: numbers of evaluations of the student per sample; if not given, 1, 2, 4 and 8 of a
            student that was trained for them, 1 of another.
        sampler: how more than one are joined: chain, renoise, gamma or kernel, as in `freeflow sample`; if
            not given, the first of these that the student was trained for.
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 to 1.
    """

    steps: list[int] | None = None
    sampler: SamplerName | None = None
    noise_share: float | None = None


def report(
    run: str,
    reference: Reference = "teacher",
    num_samples: int = 1797,
    guidance: list[float] | None = None,
    features: Name | FeatureNetwork | None = None,
    weights: str | None = None,
    seed: int = 3,
    *,
    way: StepsOptions = StepsOptions(),
    beside: TeacherOptions,
    where: DeviceOptions,
) -> None:
    """Compare a run's student with its teacher at 1, 2, 4, 8 and 64 steps from the same noise, in
    figures and pictures.

    Writes report.html, report.md, their pictures and report.json, which lists them, into the run's
    folder.

    Args:
        run: folder of a run, runs/NAME/version_N, or runs/NAME for its newest.
        reference: what FID compares with: samples of the teacher (64 Heun steps, other noise) or
            real pictures, faces that ship with the package or scikit-learn's digits.
        num_samples: samples per sampler; the same noise for all.
        guidance: guidance scales to compare; the lowest of the student's range and the middle if
            not given.
        features: network that FID sees samples with, as in `freeflow evaluate`; if not given, that
            of the real pictures, and auto with reference teacher.
        weights: the file of Inception's or DINOv2's weights.
        seed: seed of the noise.
        way: the student's steps.
        beside: what takes the place of the checkpoint's own.
        where: the device.
    """
    folder = newest(Path(run))
    claim_names(folder, NOTE, "report", [PAGE, HTML, *PICTURES])
    student = open_student(find_checkpoint(folder), overrides=beside.overrides)
    made = compare(
        student.to(pick_device(where.device)),
        reference,
        num_samples,
        guidance,
        features=features,
        weights=weights,
        seed=seed,
        **vars(way),
        run=folder,
    )
    print(made)
    page = made.save()
    print(f"written: {page}, {page.with_name(HTML)}")


main = partial(run_verb, report)
