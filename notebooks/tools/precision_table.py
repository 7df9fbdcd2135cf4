"""How exact the prediction residual is in bfloat16: the tables of docs/scale.md.

    python notebooks/tools/precision_table.py            # SiT-S/2 on 16 x 16 latents, CPU, two minutes
    python notebooks/tools/precision_table.py --device cuda --input_size 32

Student and teacher are SiT-S/2 with random weights, none of them 0, each rounded to bfloat16 once: so all columns see the
same network, and only the arithmetic differs. Errors are root mean squares over a batch, relative to that of the teacher's
velocity u: the size of Delta_G at the start of training is of that order, and falls to a few per cent of it.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import CentralDifference, ExactJVP, ForwardDifference
from freeflow_lightning.nets import SIZES, ScalarConditioned, SiT
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction, Prediction
from freeflow_lightning.teachers import SiTVelocity

STEPS = (1, 2, 4, 8, 16, 32)
WIDTHS = (0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 1e-4)
Context = Callable[[], AbstractContextManager[Any]]
Rule = Callable[[Any, Tensor, Tensor], Tensor]
"""dF/d(delta) of F(z, delta)."""


class Case:
    """A student, a teacher and a batch, in one arithmetic.

    Args:
        dtype: of weights and noise.
        autocast: whether matrix products are in bfloat16 whatever the weights (bf16-mixed).
    """

    def __init__(
        self, options: argparse.Namespace, dtype: torch.dtype, *, autocast: bool = False
    ) -> None:
        self.device, self.autocast = torch.device(options.device), autocast
        self.student = network(options, 0).to(self.device, dtype)
        self.teacher = network(options, 1).to(self.device, dtype)
        g = torch.Generator().manual_seed(0)
        n, side = options.batch_size, options.input_size
        self.z = (
            torch.randn(n, 4, side, side, generator=g).bfloat16().to(self.device, dtype)
        )  # exact in every dtype
        self.delta = ((torch.arange(n) + 0.5) / n).to(
            self.device, torch.float64 if dtype == torch.float64 else torch.float32
        )
        self.gamma = torch.full_like(self.delta, 1.5)
        self.labels = torch.arange(n, device=self.device)

    def F(self, z: Tensor, delta: Tensor) -> Tensor:  # noqa: N802
        return self.student(
            z.to(self.z.dtype), torch.ones_like(delta), self.labels, delta=delta, gamma=self.gamma
        )

    def u(self, x: Tensor, t: Tensor) -> Tensor:
        zero = torch.zeros_like(t)
        return self.teacher(x.to(self.z.dtype), t, self.labels, delta=zero, gamma=zero)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        context = (
            torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        )
        with torch.no_grad(), context:
            yield

    def error(self, form: Prediction) -> Tensor:
        """Delta_G of the form, float64."""
        with self.arithmetic():
            output = self.F(self.z, form.output_delta(self.delta))
            return form.error(self.F, output, self.u, self.z, self.delta).double()

    def derivative(self, rule: Rule) -> Tensor:
        """delta dF/d(delta), the part of v_G that the rule decides, float64."""
        with self.arithmetic():
            return (self.delta.view(-1, 1, 1, 1) * rule(self.F, self.z, self.delta)).double()

    def velocity(self) -> Tensor:
        with self.arithmetic():
            return self.u(self.z, 1 - self.delta).double()


def network(options: argparse.Namespace, seed: int) -> nn.Module:
    """A student whose every weight is random, of variance 1 / inputs."""
    torch.manual_seed(seed)
    net = SiT(options.input_size, **SIZES[options.size.removesuffix("/2")])
    student = ScalarConditioned(SiTVelocity(net), ("delta", "gamma"))
    for parameter in student.parameters():
        if parameter.requires_grad:
            std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02
            nn.init.normal_(parameter, std=std)
    return student.requires_grad_(False).bfloat16().float()


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def relative_error(case: Case, form: Prediction, right: Tensor, unit: float) -> str:
    """In words; differences of bfloat16 outputs are refused."""
    try:
        return f"{rms(case.error(form) - right) / unit:.1e}"
    except ValueError:
        return "refused"


class InAutocast:
    """A quotient of differences that stays in autocast, to show what that would do."""

    def __init__(self, h: float, *, central: bool) -> None:
        self.h, self.central = h, central

    def __call__(self, F: Any, z: Tensor, delta: Tensor) -> Tensor:
        lower = (delta - self.h).clamp(min=0) if self.central else delta
        upper = (delta + self.h).clamp(max=1)
        return (F(z, upper) - F(z, lower)) / (upper - lower).view(-1, 1, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="S/2", choices=[f"{size}/2" for size in SIZES])
    parser.add_argument("--input_size", type=int, default=16, help="side of the latents")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    exact, single = Case(options, torch.float64), Case(options, torch.float32)
    mixed, true = Case(options, torch.float32, autocast=True), Case(options, torch.bfloat16)
    unit = rms(exact.velocity())
    slope = exact.derivative(ExactJVP())
    print(
        f"SiT-{options.size}, latents 4 x {options.input_size} x {options.input_size}, batch {options.batch_size}"
    )
    print(
        f"delta dF/d(delta) / u = {rms(slope) / unit:.2f}, F / u = {rms(exact.F(exact.z, exact.delta)) / unit:.2f}\n"
    )

    print(
        "| Delta_G / u and its error / u | Delta_G | float32 | bf16-mixed | bf16-true |\n|---|---|---|---|---|"
    )
    forms: list[tuple[str, Prediction]] = [
        (f"discrete, Heun, N = {n}", DiscretePrediction(n)) for n in STEPS
    ]
    forms.append(("continuous, ExactJVP", ContinuousPrediction(ExactJVP())))
    forms += [
        (f"continuous, CentralDifference({h:g})", ContinuousPrediction(CentralDifference(h)))
        for h in (0.05, 5e-3)
    ]
    for name, form in forms:
        right = exact.error(form)
        errors = [relative_error(case, form, right, unit) for case in (single, mixed, true)]
        print(f"| {name} | {rms(right) / unit:.2f} | " + " | ".join(errors) + " |")

    print(
        "\n| delta dF/d(delta), relative error | central, float32 | forward, float32 | central, bf16 | forward, bf16 |"
    )
    print("|---|---|---|---|---|")
    for h in WIDTHS:
        rules = [
            single.derivative(CentralDifference(h)),
            single.derivative(ForwardDifference(h)),
            mixed.derivative(InAutocast(h, central=True)),
            mixed.derivative(InAutocast(h, central=False)),
        ]
        print(
            f"| h = {h:g} | "
            + " | ".join(f"{rms(rule - slope) / rms(slope):.1e}" for rule in rules)
            + " |"
        )
    jvp = [rms(case.derivative(ExactJVP()) - slope) / rms(slope) for case in (single, mixed)]
    print(f"| exact (JVP) | {jvp[0]:.1e} | | {jvp[1]:.1e} | |")


if __name__ == "__main__":
    main()
