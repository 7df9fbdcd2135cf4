"""The prediction by each derivative: time and memory of forward, error and backward."""

from collections.abc import Iterator
from typing import Any

import torch
from subjects import Case, Scale, module
from timing import measure

from freeflow_lightning import objectives
from freeflow_lightning.flow import CentralDifference, ExactJVP
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction, Prediction


def derivatives(scale: Scale) -> Iterator[Case]:
    forms: dict[str, Prediction] = {
        "exact JVP, math attention": ContinuousPrediction(ExactJVP()),
        "exact JVP, flash attention": ContinuousPrediction(ExactJVP(attention="flash")),
        "central difference": ContinuousPrediction(CentralDifference()),
        "discrete, Heun": DiscretePrediction(8),
        "discrete, implicit midpoint": DiscretePrediction(8, "implicit_midpoint"),
    }
    if scale.device.type != "cuda":
        del forms["exact JVP, flash attention"]  # refused
    for image_size, batch in ((256, 32), (512, 8)):
        for name, form in forms.items():
            label = f"B/2 {image_size}, batch {batch}, {name}"
            yield label, lambda i=image_size, b=batch, f=form: measure_form(scale, i, b, f)


def measure_form(scale: Scale, image_size: int, batch: int, form: Prediction) -> dict[str, Any]:
    made = module(scale.teacher("B/2", image_size), correction_fraction=0.0).to(scale.device)
    teacher = made.teacher.to(scale.device)
    n, g = scale.batch(batch), torch.Generator(scale.device).manual_seed(0)
    z = torch.randn(n, *teacher.sample_shape, generator=g, device=scale.device)
    labels = torch.randint(teacher.num_classes, (n,), generator=g, device=scale.device)
    gamma = torch.full((n,), 1.5, device=scale.device)
    delta = (torch.arange(n, device=scale.device) + 0.5) / n
    one = torch.ones_like(delta)
    u = teacher.guided_velocity(labels, gamma=gamma)

    def step() -> None:
        with torch.autocast(scale.device.type, torch.bfloat16):
            residual = objectives.prediction(
                lambda z, delta: made.student(z, one, labels, delta=delta, gamma=gamma),
                u,
                z,
                delta,
                form=form,
            )
            loss = residual.surrogate().mean()
        loss.backward()
        made.student.zero_grad()

    return measure(scale.device, step, rounds=scale.rounds(5))
