"""Training steps of peers and of this package on the same network, optimizer included, side by side."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peers import FAKE_STEPS, Batch, dmd2_fake_loss, dmd2_student_loss, meanflow_step
from subjects import Case, Scale, module
from timing import measure
from torch import Tensor

from freeflow_lightning.flow import training_generator
from freeflow_lightning.recipes import FreeFlowModule


def peer_steps(scale: Scale) -> Iterator[Case]:
    for size, batch in (("B/2", 64), ("XL/2", 32)):
        yield f"{size} 256, batch {batch}, peers", lambda s=size, b=batch: side_by_side(scale, s, b)


def side_by_side(scale: Scale, size: str, batch: int) -> dict[str, Any]:
    """Samples per second of each method's whole step, eager, bf16-mixed."""
    made = module(scale.teacher(size)).to(scale.device)
    made.teacher.to(scale.device)
    adam = torch.optim.Adam(
        [p for net in made.networks().values() for p in net.parameters() if p.requires_grad],
        lr=1e-6,
        fused=True,
    )
    n, found = scale.batch(batch), {}
    for name, losses in steps_of(made, n, scale.device).items():

        def step(losses: list[Callable[[], Tensor]] = losses) -> None:
            for loss in losses:
                adam.zero_grad()
                with torch.autocast(scale.device.type, torch.bfloat16):
                    value = loss()
                value.backward()
                adam.step()

        figures = measure(scale.device, step, rounds=scale.rounds(5))
        found[name] = figures | {"samples_per_second": n / figures["seconds"]}
    return found


def steps_of(
    made: FreeFlowModule, n: int, device: torch.device
) -> dict[str, list[Callable[[], Tensor]]]:
    """The losses of one step of each method, in turn, each followed by an update."""
    student, teacher = made.student, made.teacher
    fake = made.auxiliary
    assert fake is not None  # FreeFlow has both objectives by default
    g = torch.Generator(device).manual_seed(0)
    z = torch.randn(n, *teacher.sample_shape, generator=g, device=device)
    labels = torch.randint(teacher.num_classes, (n,), generator=g, device=device)
    batch = Batch(z, labels, torch.full((n,), 1.5, device=device))
    ours = training_generator(0, 0, 0, device)
    return {
        "FreeFlow (here)": [lambda: made.loss(made.draw(n, ours)).loss],
        "MeanFlow, dmf": [lambda: meanflow_step(student, teacher, batch)],
        "DMD2": [
            lambda: dmd2_student_loss(student, fake, teacher, batch),
            *[lambda: dmd2_fake_loss(student, fake, batch)] * FAKE_STEPS,
        ],
    }
