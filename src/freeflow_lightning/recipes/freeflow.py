"""FreeFlowModule: the paper's recipe. `loss` reads like its Algorithm 1."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    LogitNormal,
    Pairs,
    TimeDistribution,
    WithAtom,
    check_numbers,
    check_pairs,
    join,
)
from freeflow_lightning.objectives import DiscretePrediction, Prediction, Residual, ScoreWeight
from freeflow_lightning.recipes.correction import (
    WEIGHT,
    R,
    auxiliary_figures,
    correct,
    correction_figures,
    equalise_over_r,
    learn_noising,
)
from freeflow_lightning.recipes.correction_draws import CorrectionDraw, draw_correction, map_to_data
from freeflow_lightning.recipes.draws import select_rows
from freeflow_lightning.recipes.outputs import AuxiliaryTraining, Step
from freeflow_lightning.recipes.student_checks import refuse_dropout
from freeflow_lightning.recipes.turns import TurnTaking
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
class FreeFlowModule(TurnTaking):
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
        guidance_interval: times r inside which the correction's u is guided (Eq. 11); prediction's
            is guided everywhere.
        correction_fraction: share of the batch that is corrected: 0 for prediction alone, 1 for
            correction alone.
        alpha_ref: strength of the correction relative to the prediction, before any AlphaSchedule.
        residual_decay: k, the decay of Delta_G; 1 with both objectives, 0.5 for prediction alone.
        correction_weight: how much the error v_N - u of each sample counts; DMDWeight makes the
            correction that of distribution matching distillation.
        settings: those of `Distillation` that are given by keyword.
    """

    advice: ClassVar[Mapping[str, str]] = {
        "prediction/residual": "the prediction residual grows: lower student_lr, clip gradients, "
        "or lengthen ConfidentRegionWarmup",
        "correction/residual": "the correction residual grows: lower alpha_ref or student_lr",
        "auxiliary/loss": "the auxiliary network falls behind the student: raise auxiliary_lr or "
        "lower student_lr",
        **TurnTaking.advice,
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
        guidance_interval: Sequence[float] = (0.0, 0.4),  # Table 6
        correction_fraction: float = 0.25,  # Table 6
        alpha_ref: float = 0.3,  # Table 6
        residual_decay: float = 1.0,  # Table 6
        correction_weight: ScoreWeight = WEIGHT,
        **settings: Any,
    ) -> None:
        check_pairs(0, 1, guidance_interval=guidance_interval)
        check_numbers(0, 1, correction_fraction=correction_fraction)
        check_numbers(0, alpha_ref=alpha_ref, residual_decay=residual_decay)
        self.has_auxiliary = correction_fraction > 0
        super().__init__(teacher, network, **settings)
        if correction_fraction < 1 and prediction.subtracts_outputs:
            refuse_dropout(self.student, prediction)
        self.prediction = prediction
        self.delta = delta
        self.r = r
        self.guidance_interval = (guidance_interval[0], guidance_interval[1])
        self.correction_fraction = correction_fraction
        self.alpha_ref = alpha_ref
        self.residual_decay = residual_decay
        self.correction_weight = correction_weight
        self.alpha = alpha_ref
        self.lead = 1.0
        self.t_c = 0.0

    @property
    def pairs(self) -> Pairs:
        return Pairs.PRIOR_TO_ANY

    def draw(self, size: int, generator: Generator) -> FreeFlowDraw | CorrectionDraw:
        draws = self.draws(generator)
        if not self.moves_student:
            return draw_correction(self, draws, size, self.r, self.guidance_interval)
        n_g, n_n = objectives.split_batch(size, self.correction_fraction)
        z, c, gamma = draws.prior(n_g)
        corrected = draw_correction(self, draws, n_n, self.r, self.guidance_interval)
        delta = self.delta.sample(n_g, draws.host)
        active = None
        if self.skip_idle_rows:  # one row at least on every process: FSDP gathers weights
            active = select_rows(self.prediction.active_rows(delta), generator.device, least=1)
        to = draws.to_device
        n = draws.noise(n_g) if self.t_c > 0 else None
        return FreeFlowDraw(PredictionDraw(z, c, to(gamma), to(delta), n, active), corrected)

    def loss(self, draw: FreeFlowDraw | CorrectionDraw) -> Step:
        """Algorithm 1; the student's forward for both objectives is one call on the joined
        batch.
        """
        if isinstance(draw, CorrectionDraw):
            return learn_noising(self, draw, map_to_data(self, draw))
        p, c = draw
        z, condition = torch.cat([p.z, c.z]), join(p.condition, c.condition)
        delta = torch.cat([self.prediction.output_delta(p.delta), torch.ones_like(c.r)])
        gamma = torch.cat([p.gamma, c.gamma])
        output = self.student(z, torch.ones_like(delta), condition, delta=delta, gamma=gamma)
        predicted, corrected = output.split([len(p.z), len(c.z)])

        residuals: dict[str, Residual] = {}
        scalars: dict[str, Tensor] = {}
        loss = output.new_zeros((), dtype=torch.float32)
        lam: Tensor | float = 1.0

        if len(p.z):
            residuals["prediction"] = self._prediction(p, predicted)  # Delta_G
            delta_g = objectives.decay(residuals["prediction"], self.residual_decay)
            loss = loss + delta_g.surrogate().sum() / len(output)

        if len(c.z):
            interval, weight = self.guidance_interval, self.correction_weight
            delta_n, g = correct(self, c, corrected, interval, weight)  # and the auxiliary's
            residuals |= {"correction": delta_n, "auxiliary": g}
            delta_n, g = equalise_over_r(self, delta_n, g, c.r)

        if len(p.z) and len(c.z):
            lam = objectives.adaptive_lambda(
                delta_g.norm(),
                delta_n.norm(),
                self.alpha * self.lead,
                mean_over_ranks=self.mean_over_ranks,
            )
            scalars["correction/lambda"] = lam

        if len(c.z):
            loss = loss + lam * delta_n.surrogate().sum() / len(output)
        loss = loss / self.student_scale
        if len(c.z):
            loss = loss + g.surrogate().mean()
        return Step(loss, residuals, scalars)

    def _prediction(self, p: PredictionDraw, output: Tensor) -> Residual:
        F = self.student_at(p.z, p.condition, p.gamma, p.active)
        u = self.teacher_at(p.z, p.condition, p.gamma)
        return objectives.prediction(
            lambda z, delta: F(z, torch.ones_like(delta), delta),
            objectives.in_confident_region(u, p.n, self.t_c) if p.n is not None else u,
            p.z,
            p.delta,
            form=self.prediction,
            output=output,
        )

    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network, in forward passes.

        With skip_idle_rows the rows without effect cost less than this.
        """
        f = self.correction_fraction
        evaluations = {
            "student": 1 + (1 - f) * self.prediction.student_evaluations,
            "teacher": self.branches * ((1 - f) * self.prediction.teacher_evaluations + f),
            "auxiliary": f,
        }
        return self.mean_over_turn(evaluations, {"student": 1.0, "auxiliary": 1.0})

    def figures(self, draw: FreeFlowDraw | CorrectionDraw, step: Step) -> dict[str, Tensor | float]:
        if isinstance(draw, CorrectionDraw):
            return auxiliary_figures(step)
        figures: dict[str, Tensor | float] = {}
        if "prediction" in step.residuals:
            rms = root_mean_square(step.residuals["prediction"])
            figures |= {"prediction/residual": rms.mean(), "prediction/t_c": self.t_c}
            figures |= mean_by_bin("prediction/residual_by_delta", rms, draw.prediction.delta)
        if "correction" in step.residuals:
            figures |= correction_figures(step, draw.correction.r, self.alpha * self.lead)
        return figures

    @property
    def auxiliary_training(self) -> AuxiliaryTraining:
        return AuxiliaryTraining(self.r, self.guidance_interval, self.auxiliary_lr)

    @classmethod
    def unused_in_sampling(cls, arguments: Mapping[str, Any], *, auxiliary: bool) -> dict[str, Any]:
        laws = {
            "prediction": _PREDICTION,
            "delta": _DELTA,
            "r": R,
            "correction_weight": WEIGHT,
        }
        unused: dict[str, Any] = {
            name: law for name, law in laws.items() if unknown_parts(arguments.get(name))
        }
        has_both = 0 < arguments.get("correction_fraction", 0) < 1
        if has_both and not auxiliary and not arguments.get("lora"):
            unused["correction_fraction"] = 0.0
        return unused
