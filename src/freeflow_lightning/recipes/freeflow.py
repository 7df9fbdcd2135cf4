"""FreeFlowModule: the paper's recipe. `training_step` reads like its algorithm."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cached_property
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Generator, Tensor, nn

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    AverageVelocity,
    LogitNormal,
    TimeDistribution,
    Velocity,
    WithAtom,
    check_numbers,
    check_pairs,
    flow_map,
    guided_rows,
    host_generator,
    interpolate,
    join,
    on_rows,
    training_generator,
)
from freeflow_lightning.nets import Adapter, LoRA, ScalarConditioned, compile_blocks, map_noise, recompute, time_embeddings
from freeflow_lightning.objectives import DiscretePrediction, Prediction, Residual
from freeflow_lightning.recipes.base import Frozen, Recipe
from freeflow_lightning.teachers import Teacher, check_convention, described, examine
from freeflow_lightning.training.data import PriorBatch
from freeflow_lightning.training.optimizer import adam
from freeflow_lightning.training.step_metrics import Speed, binned, root_mean_square
from freeflow_lightning.training.strategies import copies_without_data, sources


class PredictionDraw(NamedTuple):
    """What the prediction rows draw; `n` [B_g, ...] is None once the confident-region warmup is over.

    `moved` are the rows that need further evaluations of the student, None for all.
    """

    z: Tensor
    condition: Any
    gamma: Tensor
    delta: Tensor
    n: Tensor | None
    moved: Tensor | None = None


class CorrectionDraw(NamedTuple):
    """What the correction rows draw; `guided` are the rows whose teacher is guided at r, None for all."""

    z: Tensor
    condition: Any
    gamma: Tensor
    n: Tensor
    r: Tensor
    guided: Tensor | None = None


class Step(NamedTuple):
    """One step's residuals (None where an objective is off), lambda, and the loss whose gradient is the step."""

    loss: Tensor
    lam: Tensor
    delta_g: Residual | None
    delta_n: Residual | None
    auxiliary: Residual | None


class FreeFlowModule(Recipe):
    """Data-free distillation of a teacher into a one-step flow map (FreeFlow, arXiv 2511.19428).

    The student F(z, 1, c, delta, gamma) learns the teacher's average velocity from the prior; the auxiliary network
    G(x, r, c, gamma) learns the noising velocity of the student's samples, and the two correct each other. Defaults are
    Table 6's column SiT-XL/2 at 256.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from; the teacher's if not given.
        prediction: DiscretePrediction or ContinuousPrediction, the form of Eq. 9.
        delta: law of delta for the prediction rows.
        r: law of r for the correction rows.
        guidance_range: gamma is uniform on [low, high] per sample; [1, 1] trains without guidance.
        guidance_interval: times r inside which the correction's u is guided (Eq. 11); prediction's is guided everywhere.
        correction_fraction: share of the batch that is corrected: 0 for prediction alone, 1 for correction alone.
        alpha_ref: strength of the correction relative to the prediction, before any AlphaSchedule.
        residual_decay: k, the decay of Delta_G; 1 with both objectives, 0.5 for prediction alone.
        student_lr: learning rate of the student, in units of u: Adam's is this over `student_scale`, which is 1 for velocities.
        auxiliary_lr: learning rate of the auxiliary network.
        betas: Adam's.
        eps: Adam's.
        scalar_scale: factor on delta and gamma before their frequency embeddings.
        time_module: path of the network's time embedding, where it is not found by name.
        evaluation_guidance: gamma of validation samples, inside guidance_range.
        check_teacher: measure the sign and the direction of time of the teacher before training, and refuse wrong ones.
        lora: make the student and the auxiliary network, or one of them, low-rank adapters on the teacher's own backbone,
            which is then in memory once and in no checkpoint; both are networks of their own if not given.
        skip_idle_rows: leave out the evaluations that have no effect: the student's where delta (on its grid) is 0, and the
            teacher's unconditional branch where r is outside guidance_interval. The step is the same; the sizes of these
            calls then change from step to step, which compiled networks do not like: done if not given, unless `compile` is.
        activation_checkpointing: let the backward pass compute the activations of each block of student and auxiliary again:
            a forward pass more, and the memory of one block at a time.
        compile: backend of torch.compile, such as "inductor", for the blocks of teacher, student and auxiliary.
        meta_init: build student, auxiliary and averages without weights, and copy the teacher's into each process's share
            of one block after the other: for networks that the host's memory holds once per process and not four times.
    """

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        prediction: Prediction = DiscretePrediction(steps=8, method="heun"),  # noqa: B008 (frozen), Table 6
        delta: TimeDistribution = WithAtom(LogitNormal(0.0, 1.0), 0.1),  # noqa: B008, Table 6
        r: TimeDistribution = LogitNormal(0.8, 1.6),  # noqa: B008, Table 6
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
        super().__init__()
        check_pairs(0, math.inf, guidance_range=guidance_range)
        check_pairs(0, 1, guidance_interval=guidance_interval)
        check_pairs(0, 1, without_high=True, betas=betas)
        low, high = guidance_range
        check_numbers(low, high, evaluation_guidance=evaluation_guidance)
        check_numbers(0, 1, correction_fraction=correction_fraction)
        check_numbers(0, alpha_ref=alpha_ref, residual_decay=residual_decay)
        check_numbers(0, without_low=True, student_lr=student_lr, auxiliary_lr=auxiliary_lr, eps=eps)
        check_numbers(0, without_low=True, scalar_scale=scalar_scale)
        self.frozen = Frozen(teacher)
        self.starts_from_teacher = network is None  # and so in the teacher's own parameterisation
        self.lora, self.time_module, self.scalar_scale = lora, time_module, scalar_scale
        self.meta_init, self.compile_backend, self._is_compiled = meta_init, compile, False
        names = ("student", "auxiliary") if correction_fraction > 0 else ("student",)
        backbones = self._backbones(names, network)
        self.student = self._conditioned(backbones["student"], ("delta", "gamma"))
        self.auxiliary = self._conditioned(backbones["auxiliary"], ("gamma",)) if "auxiliary" in names else None
        for conditioned in self.networks().values() if activation_checkpointing else ():
            base = conditioned.hooked
            recompute(base, list(time_embeddings(base, self.time_module).values()))
        self.prediction, self.delta, self.r = prediction, delta, r
        self.guidance_range, self.guidance_interval = (low, high), (guidance_interval[0], guidance_interval[1])
        self.correction_fraction, self.alpha_ref, self.residual_decay = correction_fraction, alpha_ref, residual_decay
        self.student_lr, self.auxiliary_lr, self.betas, self.eps = student_lr, auxiliary_lr, (betas[0], betas[1]), eps
        self.evaluation_guidance, self.check_teacher = evaluation_guidance, check_teacher
        self.skip_idle_rows = compile is None if skip_idle_rows is None else skip_idle_rows
        self.alpha, self.t_c = alpha_ref, 0.0
        self._speed = Speed()
        if correction_fraction < 1 and prediction.subtracts_outputs and (found := _dropout(self.student)):
            raise ValueError(
                f"{type(prediction).__name__} subtracts two outputs of the student, and the dropout in {found} would make "
                "their difference noise: set the dropout (lora.dropout, or the network's own) to 0, or use "
                "ContinuousPrediction(derivative=ExactJVP())"
            )

    def _backbones(self, names: Sequence[str], network: nn.Module | None) -> dict[str, nn.Module]:
        """What each network starts from: a copy of its own of the backbone, or an adapter on the teacher's."""
        lora = self.lora
        adapted = [name for name in names if lora is not None and name in lora.networks]
        if lora is not None and (network is not None or not adapted):
            raise ValueError(
                "lora adapts the teacher's own backbone: leave network out"
                if network is not None
                else "lora.networks names the auxiliary network alone, which correction_fraction = 0 leaves out: remove lora"
            )
        if self.meta_init and (network is not None or lora is not None):
            raise ValueError("meta_init copies the teacher's own network: leave network and lora out")
        full = [name for name in names if name not in adapted]
        with copies_without_data() if self.meta_init else nullcontext():
            start = (self.teacher.network() if network is None else network) if full else nn.Identity()
            # before hooks and adapters are on it
            found = {name: start if name == full[0] else deepcopy(start) for name in full}
        return found | {name: self._adapter(name) for name in adapted}

    def _adapter(self, name: str) -> Adapter:
        assert self.lora is not None
        base = self.teacher.backbone()
        return Adapter(base, name, self.lora, list(time_embeddings(base, self.time_module)))

    def _conditioned(self, backbone: nn.Module, scalars: tuple[str, ...]) -> ScalarConditioned:
        hooked = backbone.base if isinstance(backbone, Adapter) else None
        return ScalarConditioned(backbone, scalars, self.time_module, self.scalar_scale, hooked)

    # What the recipe is made of

    sampling = "student, 1 step"

    def inventory(self) -> list[tuple[str, nn.Module, str]]:
        return [("teacher", self.teacher, "frozen, not saved"), *super().inventory()]

    @property
    def teacher(self) -> Teacher:
        return self.frozen.net

    @property
    def trained(self) -> nn.Module:
        return self.student

    def twin(self, name: str) -> nn.Module:
        """A copy of the student; of an adapted one, a further adapter on the same backbone."""
        if not isinstance(self.student.backbone, Adapter):
            return super().twin(name)
        twin = self._conditioned(self._adapter(name), ("delta", "gamma")).to(self.device)
        twin.load_state_dict(self.student.state_dict())
        return twin

    def sharded(self) -> list[nn.Module]:
        """With the teacher's backbone, where it has one; another teacher is whole in every process."""
        return super().sharded() + self._teachers_own()

    def _teachers_own(self) -> list[nn.Module]:
        try:
            return [self.teacher.backbone()]
        except ValueError:  # an analytic one
            return []

    def missing(self) -> dict[Tensor, Tensor]:
        if not self.meta_init:
            return {}
        copies = [network.get_submodule("backbone") for network in [*self.networks().values(), *self.averages.values()]]
        return {key: value for copy in copies for key, value in sources(copy, self.teacher.backbone()).items()}

    def configure_model(self) -> None:
        if self.compile_backend is not None and not self._is_compiled:
            self._is_compiled = True
            for network in {*(network.hooked for network in self.networks().values()), *self._teachers_own()}:
                compile_blocks(network, self.compile_backend)
        super().configure_model()

    @property
    def guided(self) -> bool:
        """Whether the teacher is ever asked for a guided velocity."""
        return self.guidance_range != (1.0, 1.0)

    def networks(self) -> Mapping[str, ScalarConditioned]:
        return {"student": self.student} | ({"auxiliary": self.auxiliary} if self.auxiliary is not None else {})

    @cached_property
    def student_scale(self) -> float:
        """What the student's raw output is worth in u at the prior: 1 for a velocity and for a network of one's own.

        At t = 1 a score or noise network is multiplied by its `output_scale`, 157 for DDPM's betas. Adam's step does not
        depend on the size of the gradient, so that the student's would be that much too large in every layer: its learning
        rate is divided by it. Its loss is divided too, which makes Eqs. 9 and 11 products with the raw output: gradients,
        and with them Adam's eps and clipping, are then in the same units for every teacher.
        """
        if not self.starts_from_teacher:
            return 1.0
        scale = float(self.teacher.output_scale(torch.ones(1, device=self.device)))
        if not 0 < scale < math.inf:
            raise ValueError(f"expected output_scale(1) of the teacher to be finite and above 0, got {scale}")
        return scale

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rates = {"student": self.student_lr / self.student_scale, "auxiliary": self.auxiliary_lr}
        groups = [
            {"params": [p for p in network.parameters() if p.requires_grad], "lr": rates[name], "name": name}
            for name, network in self.networks().items()
        ]
        return adam(groups, betas=self.betas, eps=self.eps)

    @torch.compiler.set_stance("force_eager")  # for a few samples nothing is compiled
    def setup(self, stage: str) -> None:
        """Ask everything once on a few samples, so that a teacher that does not fit is refused before training starts."""
        self.teacher.shard(self.global_rank, self.trainer.world_size if self._trainer is not None else 1)
        starts = self.starts_from_teacher and not self.meta_init  # without data there is nothing to compare
        for finding in examine(self.teacher, guided=self.guided, device=self.device, starts_student=starts):
            finding.raise_if_broken()
        probe = Generator().manual_seed(0)
        condition = self.transfer_batch_to_device(self.teacher.draw_condition(2, probe), self.device, 0)
        x = torch.randn(2, *self.teacher.sample_shape, generator=probe).to(self.device)
        half = torch.full((2,), 0.5, device=self.device)
        try:
            with torch.no_grad():  # a student without weights is the teacher's network, which has been asked already
                shape = x.shape if self.meta_init else self.student(x, half, condition, delta=half, gamma=half).shape
        except Exception as error:
            raise ValueError(
                f"the student network fails on two states of shape {list(x.shape)} and {described(condition)} "
                f"({type(error).__name__}: {error}): make it fit the teacher's sample_shape and conditions"
            ) from error
        if shape != x.shape:
            raise ValueError(
                f"the student network returned shape {list(shape)} for states of shape {list(x.shape)}: a velocity has the "
                f"shape of its state, [batch, *sample_shape], sample_shape = {self.teacher.sample_shape}"
            )

    @torch.compiler.set_stance("force_eager")
    def on_fit_start(self) -> None:
        """Measure the teacher's sign and direction of time, now that it is where it will run."""
        super().on_fit_start()
        if self.student_scale != 1:
            rank_zero_info(f"the student's learning rate is {step_size(self.student_lr, self.student_scale)}")
            if error := bfloat16_error(self.student_scale, str(self.trainer.precision)):
                rank_zero_warn(error)
        if not self.check_teacher:
            return
        with self.teacher.whole(), self.trainer.precision_plugin.forward_context():  # sharded networks: all ask the same
            evidence = check_convention(self.teacher, device=self.device)
        evidence.raise_if_wrong()
        if evidence.verdict == "unclear":
            rank_zero_warn(evidence.summary())
        if evidence.size_problem:
            rank_zero_warn(evidence.size_problem)

    # The algorithm

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        counter = self.trainer.fit_loop.total_batch_idx
        p, c = self.draw(batch.size, training_generator(batch.seed, self.global_rank, counter, self.device))
        step = self.step(p, c)
        self.check_finite(self._terms(step))
        self._speed.tick()
        if self.logs_now:
            self._log(step, p, c)
        return step.loss

    def on_train_epoch_start(self) -> None:
        self._speed.restart()

    def on_validation_end(self) -> None:
        self._speed.restart()

    def draw(self, size: int, generator: Generator) -> tuple[PredictionDraw, CorrectionDraw]:
        """Everything random in one step: functions of the generator alone; scalars on the host, for it to select rows by."""
        n_g, n_n = objectives.split(size, self.correction_fraction)
        device, shape, (low, high) = generator.device, self.teacher.sample_shape, self.guidance_range
        host = host_generator(generator)

        precision = torch.get_default_dtype()  # of the Trainer: 64-true trains on the numbers of 32-true
        drawn = torch.float32 if precision == torch.float64 else precision

        def noise(n: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator, device=device, dtype=drawn).to(precision)

        def gamma(n: int) -> Tensor:
            return low + (high - low) * torch.rand(n, generator=host, dtype=torch.float32)

        def condition(n: int) -> Any:
            return self.teacher.draw_condition(n, generator)

        def there(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        z, c, g = noise(n_g), condition(n_g), gamma(n_g)
        z_n, c_n, g_n, n, r = noise(n_n), condition(n_n), gamma(n_n), noise(n_n), self.r.sample(n_n, host)
        delta = self.delta.sample(n_g, host)
        moved, guided = None, None
        if self.skip_idle_rows:
            moved = _selected(self.prediction.moved(delta), device, least=1)  # called on every process: FSDP gathers weights
            guided = _selected(guided_rows(g_n, r, self.guidance_interval), device) if self.guided else None
        return (
            PredictionDraw(z, c, there(g), there(delta), noise(n_g) if self.t_c > 0 else None, moved),
            CorrectionDraw(z_n, c_n, there(g_n), n, there(r), guided),
        )

    def step(self, p: PredictionDraw, c: CorrectionDraw) -> Step:
        """One step of the method: the student's forward for both objectives is one call on the joined batch."""
        delta = self.prediction.output_delta(p.delta)
        output = self._student(
            torch.cat([p.z, c.z]),
            torch.cat([delta, torch.ones_like(c.r)]),
            join(p.condition, c.condition),
            torch.cat([p.gamma, c.gamma]),
        )
        predicted, corrected = output.split([len(p.z), len(c.z)])
        delta_g = self._prediction(p, predicted) if len(p.z) else None
        delta_n, auxiliary = self._correction(c, corrected) if len(c.z) else (None, None)

        weighted = objectives.decay(delta_g, self.residual_decay) if delta_g else None
        loss = output.new_zeros((), dtype=torch.float32)
        lam = torch.ones_like(loss)
        equal, own = self._equalised(delta_n, auxiliary, c.r)
        if weighted and equal:
            lam = objectives.adaptive_lambda(weighted.norm(), equal.norm(), self.alpha, mean_over_ranks=self._mean_over_ranks)
        if weighted:
            loss = loss + weighted.surrogate().sum() / len(output)
        if equal:
            loss = loss + lam * equal.surrogate().sum() / len(output)
        loss = loss / self.student_scale
        if own:
            loss = loss + own.surrogate().mean()
        return Step(loss, lam, delta_g, delta_n, auxiliary)

    def _prediction(self, p: PredictionDraw, output: Tensor) -> Residual:
        u = self._teacher(p.z, p.condition, p.gamma, (0.0, 1.0))
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
        student = on_rows(self._student, p.moved)
        return lambda z, delta: student(z, delta, p.condition, p.gamma)

    def _correction(self, c: CorrectionDraw, output: Tensor) -> tuple[Residual, Residual]:
        """Delta_N and the auxiliary's residual, from one forward of the auxiliary network at the same x_r."""
        assert self.auxiliary is not None  # correction_fraction = 0 has no correction rows
        f = flow_map(c.z, output.detach(), torch.ones_like(c.r))
        g = self.auxiliary(interpolate(f, c.n, c.r).to(c.z.dtype), c.r, c.condition, gamma=c.gamma)
        delta_n = objectives.correction(
            lambda z, delta: self._student(z, delta, c.condition, c.gamma),
            lambda x, r: g.detach(),
            self._teacher(c.z, c.condition, c.gamma, self.guidance_interval, c.guided),
            c.z,
            c.n,
            c.r,
            output=output,
        )
        return delta_n, objectives.auxiliary(self.auxiliary, f, c.n, c.r, output=g)

    def _equalised(
        self, delta_n: Residual | None, auxiliary: Residual | None, r: Tensor
    ) -> tuple[Residual | None, Residual | None]:
        """Delta_N on one scale over r, and the auxiliary's residual in units of its network's raw output (App. A.2)."""
        if not (delta_n and auxiliary) or not self.starts_from_teacher:
            return delta_n, auxiliary
        difference, raw = self.teacher.difference_scale(r), self.teacher.output_scale(r)
        return objectives.equalise(delta_n, difference), objectives.equalise(auxiliary, raw**2)

    def _student(self, z: Tensor, delta: Tensor, condition: Any, gamma: Tensor) -> Tensor:
        return self.student(z, torch.ones_like(delta), condition, delta=delta, gamma=gamma)

    def _teacher(
        self, z: Tensor, condition: Any, gamma: Tensor, interval: tuple[float, float], rows: Tensor | None = None
    ) -> Velocity:
        gamma_or_none = gamma if self.guided else None
        u = self.teacher.guided_velocity(condition, gamma=gamma_or_none, interval=interval, rows=rows)
        return lambda x, t: u(x.to(z.dtype), t)  # bf16-true: wider x

    def _mean_over_ranks(self, x: Tensor) -> Tensor:
        attached = self._trainer is not None
        return self.trainer.strategy.reduce(x, reduce_op="mean") if attached else x

    @torch.no_grad()
    def flow_map(self, z: Tensor, condition: Any, delta: Tensor) -> Tensor:
        """f(z, delta) [B, ...] of the evaluated student at the evaluation guidance; delta [B] in [0, 1]."""
        gamma = self.evaluation_guidance * torch.ones_like(delta)
        return map_noise(self.evaluated, z, condition, delta=delta, gamma=gamma)

    def generate(self, z: Tensor, condition: Any) -> Tensor:
        return self.flow_map(z, condition, torch.ones(len(z), device=z.device))

    # What it says about itself

    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network (forward passes; guidance counts two).

        With skip_idle_rows the rows without effect cost less than this.
        """
        f, branches = self.correction_fraction, 2 if self.guided else 1
        return {
            "student": 1 + (1 - f) * self.prediction.student_evaluations,
            "teacher": branches * ((1 - f) * self.prediction.teacher_evaluations + f),
            "auxiliary": f,
        }

    def _terms(self, step: Step) -> dict[str, Tensor]:
        residuals = {"prediction": step.delta_g, "correction": step.delta_n, "auxiliary": step.auxiliary}
        return {f"the {name} residual": x.error for name, x in residuals.items() if x} | {"the loss": step.loss}

    @torch.no_grad()
    def _log(self, step: Step, p: PredictionDraw, c: CorrectionDraw) -> None:
        figures: dict[str, Tensor | float] = {}
        if step.delta_g:
            rms = root_mean_square(step.delta_g)
            figures |= {"prediction/residual": rms.mean(), "prediction/t_c": self.t_c}
            figures |= binned("prediction/residual_by_delta", rms, p.delta)
        if step.delta_n and step.auxiliary:
            rms = root_mean_square(step.delta_n)
            figures |= {"correction/residual": rms.mean(), "auxiliary/loss": step.auxiliary.mean_square().mean()}
            figures |= binned("correction/residual_by_r", rms, c.r)
        if step.delta_g and step.delta_n:
            figures |= {"correction/lambda": step.lam, "correction/alpha": self.alpha}
        size = len(p.z) + len(c.z)
        figures |= self._speed.figures(size * self.trainer.world_size, sum(self.evaluations_per_sample().values()))
        self.log_dict(figures, batch_size=size)


def step_size(rate: float | None, scale: float) -> str:
    """The student's learning rate in words: why and by what it is divided.

    >>> step_size(3e-4, 150.0)
    'student_lr / 150 = 2e-06: at the prior u is the raw output times 150'
    """
    result = "" if rate is None else f" = {rate / scale:.4g}"
    return f"student_lr / {scale:.4g}{result}: at the prior u is the raw output times {scale:.4g}"


def bfloat16_error(scale: float, precision: str) -> str | None:
    """What bfloat16 does to a student whose raw output is worth `scale` in u; None where it does little.

    >>> bfloat16_error(1.0, "bf16-mixed") is None, bfloat16_error(150.0, "32-true") is None
    (True, True)
    """
    error = scale / 2**9
    if "bf16" not in precision or error < 0.02:
        return None
    return (
        f"bfloat16 rounds the raw output by 0.2 %, which is {error:.0%} of u at the prior: train with precision 32-true, or "
        "give the teacher a lower t_max"
    )


def _selected(mask: Tensor, device: torch.device, least: int = 0) -> Tensor | None:
    """Indices on the device of the rows of a mask on the host, `least` of them at least; None for all rows."""
    rows = mask.nonzero()[:, 0]
    if len(rows) == len(mask):
        return None
    return (rows if len(rows) >= least else torch.arange(least)).to(device, non_blocking=True)


def _dropout(network: nn.Module) -> str:
    """The path of the first layer that drops anything out in training; empty if none does."""
    layers = ((path, module) for path, module in network.named_modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    return next((path for path, layer in layers if layer.p > 0), "")
