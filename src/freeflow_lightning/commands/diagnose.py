"""freeflow diagnose: where a student goes wrong and what its teacher allows, in one HTML page with
pictures.
"""

from functools import partial
from pathlib import Path

from freeflow_lightning.commands.feature_options import FeatureOptions
from freeflow_lightning.commands.options import CheckpointOptions, DeviceOptions, TeacherOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.tasks.diagnose import NOTE, PAGE
from freeflow_lightning.commands.tasks.diagnose import diagnose as measure
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.training.output_folder import claim_names


def diagnose(
    opening: CheckpointOptions,
    guidance: float | None = None,
    num_samples: int = 512,
    output: str = "diagnosis",
    fine_steps: int = 256,
    tolerance: float = 0.02,
    auxiliary_steps: int = 100,
    seed: int = 0,
    batch_size: int = 256,
    *,
    seen_with: FeatureOptions,
    beside: TeacherOptions,
    where: DeviceOptions,
) -> None:
    """See where a student goes wrong: one page, diagnosis.html, to read at a glance; the numbers in
    diagnosis.json.

    Args:
        opening: the student.
        guidance: guidance scale of student and teacher; the run's evaluation_guidance if not given.
        num_samples: samples that are compared with the teacher's.
        output: folder to write to; made if it does not exist.
        fine_steps: Heun steps of the solution that coarser ones are measured against.
        tolerance: relative error at which a solver counts as good enough.
        auxiliary_steps: further steps that a copy of the auxiliary network trains, to see how far
            behind it is; 0 for none.
        seed: seed of the noise.
        batch_size: samples per network evaluation.
        seen_with: says which samples are alike.
        beside: what takes the place of the checkpoint's own.
        where: the device.
    """
    folder = Path(output)
    claim_names(folder, NOTE, "diagnose", [PAGE])
    student = opening.open(beside.overrides).to(pick_device(where.device))
    made = measure(
        student,
        guidance,
        num_samples,
        **vars(seen_with),
        fine_steps=fine_steps,
        tolerance=tolerance,
        auxiliary_steps=auxiliary_steps,
        seed=seed,
        batch_size=batch_size,
        checkpoint=opening.checkpoint,
        overrides=beside.overrides,
    )
    print(made)
    print(f"written: {made.save(folder)}")


main = partial(run, diagnose)
