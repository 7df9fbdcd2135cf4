"""FreeFlowModule: the paper's recipe. `loss` reads like its Algorithm 1."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    AverageVelocity,
    LogitNormal,
    Pairs,
    TimeDistribution,
    WithAtom,
    check_numbers,
    check_pairs,
    join,
    on_rows,
)
from freeflow_lightning.nets import LoRA
from freeflow_lightning.objectives import DiscretePrediction, Prediction, Residual
from freeflow_lightning.recipes.correction import (
    CorrectionDraw,
    R,
    correct,
    draw_correction,
    equalise_over_r,
    select_rows,
)
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.outputs import AuxiliaryTraining, Step
from freeflow_lightning.recipes.student_checks import refuse_dropout
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.record import unknown_parts
from freeflow_lightning.training.step_metrics import mean_by_bin, root_mean_square


class PredictionDraw(NamedTuple):
    """What the prediction rows draw; `n` [B_g, ...] is None once the confident-region warmup is
    over.

    `active` are the rows that need further evaluations of the student, None for all.
    """

    z: Tensor
    condition: Any
    gamma: Tensor
    delta: Tensor
    n: Tensor | None
    active: Tensor | None = None


class FreeFlowDraw(NamedTuple):
    """Everything random in one step."""

    prediction: PredictionDraw
    correction: CorrectionDraw


_PREDICTION = DiscretePrediction(steps=8, method="heun")  # Table 6
_DELTA = WithAtom(LogitNormal(0.0, 1.0), 0.1)  # Table 6


@final
class FreeFlowModule(Distillation):
    """Data-free distillation of a teacher into a one-step flow map (FreeFlow, arXiv 2511.19428).

    The student F(z, 1, c, delta, gamma) learns the teacher's average velocity from the prior; the
    auxiliary network G(x, r, c, gamma) learns the noising velocity of the student's samples, and
    the two correct each other. Defaults are Table 6's column SiT-XL/2 at 256.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from; the
            teacher's if not given.
        prediction: DiscretePrediction or ContinuousPrediction, the form of Eq. 9.
        delta: law of delta for the prediction rows.
        r: law of r for the correction rows.
        guidance_range: gamma is uniform on [low, high] per sample; [1, 1] trains without guidance.
        guidance_interval: times r inside which the correction's u is guided (Eq. 11); prediction's
            is guided everywhere.
        correction_fraction: share of the batch that is corrected: 0 for prediction alone, 1 for
            correction alone.
        alpha_ref: strength of the correction relative to the prediction, before any AlphaSchedule.
        residual_decay: k, the decay of Delta_G; 1 with both objectives, 0.5 for prediction alone.
        student_lr: learning rate of the student, in units of u: Adam's is this over
            `student_scale`, which is 1 for velocities.
        auxiliary_lr: learning rate of the auxiliary network.
        betas: Adam's.
        eps: Adam's.
        scalar_scale: factor on delta and gamma before their frequency embeddings.
        time_module: path of the network's time embedding, where it is not found by name.
        evaluation_guidance: gamma of validation samples, inside guidance_range.
        check_teacher: measure the sign and the direction of time of the teacher before training,
            and refuse wrong ones.
        lora: make the student and the auxiliary network, or one of them, low-rank adapters on the
            teacher's own backbone, which is then in memory once and in no checkpoint; both are
            networks of their own if not given.
        skip_idle_rows: leave out the evaluations that have no effect: the student's where delta (on
            its grid) is 0, and the teacher's unconditional branch where r is outside
            guidance_interval. The step is the same; the sizes of these calls then change from step
            to step, which compiled networks do not like: done if not given, unless `compile` is.
        activation_checkpointing: let the backward pass compute the activations of each block of
            student and auxiliary again: a forward pass more, and the memory of one block at a time.
        compile: backend of torch.compile, such as "inductor", for the blocks of teacher, student
            and auxiliary.
        meta_init: build student, auxiliary and averages without weights, and copy the teacher's
            into each process's share of one block after the other: for networks that the host's
            memory holds once per process and not four times.
    """

    advice: ClassVar[Mapping[str, str]] = {
        "prediction/residual": "the prediction residual grows: lower student_lr, clip gradients, or lengthen "
        "ConfidentRegionWarmup",
        "correction/residual": "the correction residual grows: lower alpha_ref or student_lr",
        "auxiliary/loss": "the auxiliary network falls behind the student: raise auxiliary_lr or lower student_lr",
        **Distillation.advice,
    }
    spread_advice = "raise the prediction's share or lower alpha_ref"
    progress_names: ClassVar[Mapping[str, str]] = {
        "prediction/residual": "pred",
        "correction/residual": "corr",
        "auxiliary/loss": "aux",
    }
    curves: ClassVar[Mapping[str, Sequence[str]]] = {
        "residuals": ("prediction/residual", "correction/residual", "auxiliary/loss"),
        "gradient norms": ("gradient/student", "gradient/auxiliary"),
        "schedules": ("prediction/t_c", "correction/alpha"),
        "lambda": ("correction/lambda",),
    }

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        prediction: Prediction = _PREDICTION,
        delta: TimeDistribution = _DELTA,
        r: TimeDistribution = R,
        guidance_range: Sequence[float] = (1.0, 2.0),  # Table 6
        guidance_interval: Sequence[float] = (0.0, 0.4),  # Table 6
        correction_fraction: float = 0.25,  # Table 6
        alpha_ref: float = 0.3,  # Table 6
        residual_decay: float = 1.0,  # Table 6
        student_lr: float = 3e-5,  # Table 6
        auxiliary_lr: float = 1e-4,  # Table 6
        betas: Sequence[float] = (0.9, 0.99),  # Table 6
        eps: float = 1e-8,  # Table 6
        scalar_scale: float = 1.0,
        time_module: str | None = None,
        evaluation_guidance: float = 1.5,
        check_teacher: bool = True,
        lora: LoRA | None = None,
        skip_idle_rows: bool | None = None,
        activation_checkpointing: bool = False,
        compile: str | None = None,
        meta_init: bool = False,
    ) -> None:
        check_pairs(0, 1, guidance_interval=guidance_interval)
        check_numbers(0, 1, correction_fraction=correction_fraction)
        check_numbers(0, alpha_ref=alpha_ref, residual_decay=residual_decay)
        super().__init__(
            teacher,
            network,
            has_auxiliary=correction_fraction > 0,
            guidance_range=guidance_range,
            evaluation_guidance=evaluation_guidance,
            student_lr=student_lr,
            auxiliary_lr=auxiliary_lr,
            betas=betas,
            eps=eps,
            scalar_scale=scalar_scale,
            time_module=time_module,
            check_teacher=check_teacher,
            lora=lora,
            skip_idle_rows=skip_idle_rows,
            activation_checkpointing=activation_checkpointing,
            compile=compile,
            meta_init=meta_init,
        )
        if correction_fraction < 1 and prediction.subtracts_outputs:
            refuse_dropout(self.student, prediction)
        self.prediction = prediction
        self.delta = delta
        self.r = r
        self.guidance_interval = (guidance_interval[0], guidance_interval[1])
        self.correction_fraction = correction_fraction
        self.alpha_ref = alpha_ref
        self.residual_decay = residual_decay
        self.alpha = alpha_ref
        self.t_c = 0.0

    @property
    def pairs(self) -> Pairs:
        return Pairs.PRIOR_TO_ANY

    def draw(self, size: int, generator: Generator) -> FreeFlowDraw:
        n_g, n_n = objectives.split(size, self.correction_fraction)
        draws = self.draws(generator)
        z, c, gamma = draws.noise(n_g), draws.condition(n_g), draws.guidance(n_g)
        skips_branches = self.skip_idle_rows and self.is_guided
        interval = self.guidance_interval if skips_branches else None
        corrected = draw_correction(draws, n_n, self.r, interval)
        delta = self.delta.sample(n_g, draws.host)
        active = None
        if self.skip_idle_rows:  # one row at least on every process: FSDP gathers weights
            active = select_rows(self.prediction.active_rows(delta), generator.device, least=1)
        to = draws.to_device
        n = draws.noise(n_g) if self.t_c > 0 else None
        return FreeFlowDraw(PredictionDraw(z, c, to(gamma), to(delta), n, active), corrected)

    def loss(self, draw: FreeFlowDraw) -> Step:
        """Algorithm 1; the student's forward for both objectives is one call on the joined batch."""
        p, c = draw
        z, condition = torch.cat([p.z, c.z]), join(p.condition, c.condition)
        delta = torch.cat([self.prediction.output_delta(p.delta), torch.ones_like(c.r)])
        output = self._student(z, delta, condition, torch.cat([p.gamma, c.gamma]))
        predicted, corrected = output.split([len(p.z), len(c.z)])

        residuals: dict[str, Residual] = {}
        loss = output.new_zeros((), dtype=torch.float32)
        lam = torch.ones_like(loss)
        weighted, equal, own = None, None, None

        if len(p.z):
            residuals["prediction"] = self._prediction(p, predicted)  # Delta_G
            weighted = objectives.decay(residuals["prediction"], self.residual_decay)
            loss = loss + weighted.surrogate().sum() / len(output)

        if len(c.z):
            delta_n, g = correct(
                self, c, corrected, self.guidance_interval
            )  # Delta_N, and the auxiliary's
            residuals |= {"correction": delta_n, "auxiliary": g}
            equal, own = equalise_over_r(self, delta_n, g, c.r)

        if weighted and equal:
            lam = objectives.adaptive_lambda(
                weighted.norm(),
                equal.norm(),
                self.alpha,
                mean_over_ranks=self.mean_over_ranks,
            )
        if equal:
            loss = loss + lam * equal.surrogate().sum() / len(output)
        loss = loss / self.student_scale
        if own:
            loss = loss + own.surrogate().mean()
        balance = {"correction/lambda": lam} if weighted and equal else {}
        return Step(loss, residuals, balance)

    def _prediction(self, p: PredictionDraw, output: Tensor) -> Residual:
        u = self.velocity(p.z, p.condition, p.gamma)
        return objectives.prediction(
            self._further(p),
            objectives.in_confident_region(u, p.n, self.t_c) if p.n is not None else u,
            p.z,
            p.delta,
            form=self.prediction,
            output=output,
        )

    def _further(self, p: PredictionDraw) -> AverageVelocity:
        """F(z, delta) for the error of Eq. 9; 0 in the rows where it has no effect."""
        student = on_rows(self._student, p.active)
        return lambda z, delta: student(z, delta, p.condition, p.gamma)

    def _student(self, z: Tensor, delta: Tensor, condition: Any, gamma: Tensor) -> Tensor:
        return self.student(z, torch.ones_like(delta), condition, delta=delta, gamma=gamma)

    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network (forward passes; guidance
        counts two).

        With skip_idle_rows the rows without effect cost less than this.
        """
        f, branches = self.correction_fraction, 2 if self.is_guided else 1
        return {
            "student": 1 + (1 - f) * self.prediction.student_evaluations,
            "teacher": branches * ((1 - f) * self.prediction.teacher_evaluations + f),
            "auxiliary": f,
        }

    def figures(self, draw: FreeFlowDraw, step: Step) -> dict[str, Tensor | float]:
        figures: dict[str, Tensor | float] = {}
        if "prediction" in step.residuals:
            rms = root_mean_square(step.residuals["prediction"])
            figures |= {"prediction/residual": rms.mean(), "prediction/t_c": self.t_c}
            figures |= mean_by_bin("prediction/residual_by_delta", rms, draw.prediction.delta)
        if "correction" in step.residuals:
            rms = root_mean_square(step.residuals["correction"])
            lag = step.residuals["auxiliary"].mean_square().mean()
            figures |= {"correction/residual": rms.mean(), "auxiliary/loss": lag}
            figures |= mean_by_bin("correction/residual_by_r", rms, draw.correction.r)
        if step.scalars:
            figures |= {**step.scalars, "correction/alpha": self.alpha}
        return figures

    @property
    def auxiliary_training(self) -> AuxiliaryTraining:
        return AuxiliaryTraining(self.r, self.guidance_interval, self.auxiliary_lr)

    @classmethod
    def unused_in_sampling(cls, arguments: Mapping[str, Any], *, auxiliary: bool) -> dict[str, Any]:
        laws = {"prediction": _PREDICTION, "delta": _DELTA, "r": R}
        unused: dict[str, Any] = {
            name: law for name, law in laws.items() if unknown_parts(arguments.get(name))
        }
        has_both = 0 < arguments.get("correction_fraction", 0) < 1
        if has_both and not auxiliary and not arguments.get("lora"):
            unused["correction_fraction"] = 0.0
        return unused
