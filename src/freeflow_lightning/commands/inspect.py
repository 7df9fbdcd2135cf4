"""freeflow inspect: what a teacher is, whether it is sound, and what distilling it costs."""

from functools import partial
from pathlib import Path

from rich.console import Console

from freeflow_lightning.commands.inspect_subject import find_subject
from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.inspect import (
    draw_picture,
    introduce,
    show_checks,
    show_costs,
)
from freeflow_lightning.commands.views.progress import parts_of, progress_bar
from freeflow_lightning.nets import LoRA
from freeflow_lightning.profiling.no_data import without_data
from freeflow_lightning.profiling.step_memory import PrecisionName, SizeName
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.output_folder import claim_picture

USAGE = """freeflow inspect WEIGHTS [options]
       freeflow inspect --teacher CLASS --teacher.ARGUMENT VALUE ... [options]
       freeflow inspect --config CONFIG [--model.NAME VALUE ...] [options]
       freeflow inspect --size XL/2 --image_size 512 [options]

for example
       freeflow inspect embedded:digits
       freeflow inspect --teacher SiTTeacher --teacher.checkpoint last.pt --teacher.convention repa
       freeflow inspect --config configs/sit_xl2_256.yaml --batch_size 32"""


def inspect(
    checkpoint: str | None = None,
    teacher: Teacher | None = None,
    config: str | None = None,
    size: SizeName | None = None,
    image_size: int = 256,
    batch_size: int | None = None,
    precision: PrecisionName | None = None,
    averages: int | None = None,
    lora: LoRA | None = None,
    output: str = "inspect.png",
    no_samples: bool = False,
    num_samples: int = 8,
    guidance: float = 1.5,
    steps: int = 32,
    seed: int = 0,
    overrides: list[str] | None = None,
    *,
    where: DeviceOptions,
) -> None:
    """Look at a teacher before it is distilled: what it is, whether its velocity is sound, what a
    training step costs.

    Its velocity is checked for shape, numbers, sign, direction of time and more; costs are
    evaluations and memory; a row of its samples is drawn as a picture. The exit status is 1 if
    something is broken. With --size: the costs of a SiT, without any weights.

    Args:
        checkpoint: weights of a SiT; may be given as the first word without the option.
        teacher: a Teacher: its class, then its arguments as --teacher.NAME.
        config: a config of `freeflow fit`: its teacher, networks, batch size, precision and
            averages; --model.*, --data.* and --trainer.* change it as in fit.
        size: costs only, of a published size of SiT.
        image_size: of the pictures, with --size.
        batch_size: samples per process and micro-batch; the config's, or 64.
        precision: 32, bf16-mixed or bf16-true; the config's, or bf16-mixed.
        averages: moving averages of the student; the config's, or 1.
        lora: costs of adapters, --lora.networks "[auxiliary]" or --lora.rank 64 for both networks;
            a config's is --model.lora.
        output: the picture to write.
        no_samples: draw none.
        num_samples: how many.
        guidance: guidance scale of the samples; without effect on a teacher without conditions.
        steps: Heun steps of the samples.
        seed: of checks and samples.
        overrides: set by --model.*, --data.* and --trainer.*.
        where: the device of checks and samples.
    """
    subject = find_subject(
        checkpoint, teacher, config, size, image_size, lora, overrides, precision
    )
    subject = subject._replace(
        batch_size=subject.batch_size if batch_size is None else batch_size,
        averages=subject.averages if averages is None else averages,
    )
    console, device = Console(highlight=False), pick_device(where.device)
    must_know = subject.costs_only or batch_size is not None
    if subject.costs_only:
        show_costs(console, subject, subject.teacher, must_know=must_know)
        return
    stand_in = without_data(subject.teacher)
    subject.teacher.to(device).eval().requires_grad_(False)
    with progress_bar(True) as bar:
        begin = parts_of(bar, 2 if no_samples else 3)
        introduce(console, subject)
        begin("checks")
        show_checks(console, subject, device, seed)
        begin("costs")
        show_costs(console, subject, stand_in, must_know=must_know)
        if not no_samples:
            begin("samples")
            claim_picture(Path(output), "inspect")
            scale = guidance if subject.guided else 1.0
            sampler = TeacherSampler(subject.teacher, "heun", steps, scale)
            draw_picture(console, sampler, Path(output), num_samples, seed, device)


main = partial(run, inspect, usage=USAGE)
