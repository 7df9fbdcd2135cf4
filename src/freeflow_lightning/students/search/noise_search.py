"""Noise search with a student and its teacher: what each sample's search sees, and what it costs,
evaluation by evaluation.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import expand, indexed_noise, solve, take
from freeflow_lightning.sampling.draw import ROWS, Draw, evaluate_rows, pictures
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.posterior_draws import draw_posterior
from freeflow_lightning.students.search.algorithms import Algorithm, BestNoise, repeat_rows
from freeflow_lightning.students.search.evaluations import Evaluations
from freeflow_lightning.students.search.value_gradient import scores_with_gradient
from freeflow_lightning.students.search.verifiers import Verifier


class SearchResult(NamedTuple):
    """What the search of G samples gives.

    Args:
        found: what the search ended with.
        final: [G, ...], the teacher's samples from there; what the search saw best where the
            teacher takes no steps.
        score: the verifier's of `final`, [G].
        condition: of the samples.
        search: evaluations that the search of one sample took.
        handed_over: evaluations that the teacher's final sample took beside, for one sample.
        used: evaluations that the networks made in all, rows included that fill a batch up to a
            multiple of 8.
        verified: samples that the verifier saw in the search, for one sample.
    """

    found: BestNoise
    final: Tensor
    score: Tensor
    condition: Any
    search: Evaluations
    handed_over: Evaluations
    used: Evaluations
    verified: int


class Unsearched(NamedTuple):
    """The samples of the noise that nobody searched for, [G, ...], their scores [G], evaluations of
    one and of all.
    """

    student: Tensor
    teacher: Tensor
    student_score: Tensor
    teacher_score: Tensor
    per_sample: Evaluations
    used: Evaluations


class NoiseSearch(NamedTuple):
    """How samples are searched for.

    Args:
        student: proposes a candidate; holds the teacher, who draws the final sample.
        verifier: scores (see `search.Verifier`).
        algorithm: RandomSearch, ZeroOrderSearch, PathSearch, or a function of one's own of a
            `search.SearchContext`.
        sampler: draws the final sample with the student's teacher; its guidance is the student's
            too. With 0 steps it does not.
        path_steps: the teacher's steps from time 1 to 0 inside a path search; a shorter way takes
            its share.
        batch_size: rows per network evaluation; has no influence on the result.
        decode_batch_size: samples that a latent teacher's decoder takes at once.
        jumps: the student's steps for a candidate.
    """

    student: FlowMap
    verifier: Verifier
    algorithm: Algorithm
    sampler: TeacherSampler
    path_steps: int = 8
    batch_size: int = 256
    decode_batch_size: int = 64
    jumps: Jumps = ONE_STEP

    def __call__(self, which: Draw, index: Tensor) -> SearchResult:
        """Search for the samples with the given indices, [G]: each is a function of (seed, its
        index) alone.
        """
        context = BatchSearchContext(self, which, index)
        found, g = self.algorithm(context), len(index)
        search, verified = context.asked, context.verified
        final, score = found.seen, found.score
        if self.sampler.steps:
            final = context.finish(found.state, found.time)
            score = context.score(final)
        spent = (search.share(g), (context.asked - search).share(g), context.used, verified // g)
        return SearchResult(found, final, score, context.condition, *spent)

    def unsearched(self, which: Draw, index: Tensor) -> Unsearched:
        """Student and teacher from each sample's own noise, as `freeflow sample` draws it."""
        context = BatchSearchContext(self, which, index)
        z = context.noise(range(1))
        x = context.student(z)
        y = context.finish(z, 1.0) if self.sampler.steps else x
        return Unsearched(
            x, y, context.score(x), context.score(y), context.asked.share(len(index)), context.used
        )


class BatchSearchContext:
    """The `search.SearchContext` of G samples of a draw. Noise k of sample i is a function of
    (seed, i, k).

    Attributes:
        asked: evaluations of rows that were asked for, over all samples.
        used: evaluations that the networks made, rows included that fill a batch up.
        verified: samples that were scored.
    """

    def __init__(self, setting: NoiseSearch, which: Draw, index: Tensor) -> None:
        self.setting = setting
        self.which = which
        self.index = index
        self.device = setting.student.device
        self.samples = len(index)
        # what evaluate_rows would fill it up to
        self.rows = -(-setting.batch_size // ROWS) * ROWS
        together = self.rows // self.samples
        # whole batches as far as possible
        self.together = max(1, together - together % ROWS if together > ROWS else together)
        self.asked = self.used = Evaluations()
        self.verified = 0
        self.first, self.condition = which.noise(setting.student.teacher, index, self.device)

    def noise(self, numbers: range) -> Tensor:
        """Noise [len(numbers) * G, ...]; number 0 is the sample's own, as `freeflow sample` draws
        it.
        """
        return torch.cat([self._noise(k) for k in numbers])

    def _noise(self, number: int) -> Tensor:
        if number == 0:
            return self.first
        stream = f"{self.which.stream}/candidate {number}"
        return indexed_noise(
            self.index, self.first.shape[1:], seed=self.which.seed, stream=stream
        ).to(self.device)

    def student(self, z: Tensor, delta: float = 1.0) -> Tensor:
        """f(z, delta): to a sample in the steps of the search, elsewhere in one."""
        student, guidance = self.setting.student, self.setting.sampler.guidance
        jumps = self.setting.jumps

        def draw_sample(z: Tensor, condition: Any) -> Tensor:
            self.used += Evaluations(student=len(z) * jumps.steps)
            return student.jump(z, condition, guidance, jumps)

        def draw_state(z: Tensor, condition: Any) -> Tensor:
            self.used += Evaluations(student=len(z))
            return student(z, condition, guidance, delta)

        return self._evaluate(draw_sample if delta == 1 else draw_state, z)

    def teacher(self, x: Tensor, t: float, t_next: float) -> Tensor:
        """Solve the teacher's ODE with as many steps as `path_steps` has on the way."""
        return self._integrate(x, t, t_next, self.setting.path_steps)

    def finish(self, x: Tensor, t: float) -> Tensor:
        """Solve the teacher's ODE from t to 0 with as many of the final sampler's steps as are on
        the way.
        """
        return self._integrate(x, t, 0.0, self.setting.sampler.steps)

    def _integrate(self, x: Tensor, t: float, t_next: float, whole_way: int) -> Tensor:
        if t == t_next:  # a steered path ends at the sample
            return x
        steps = math.ceil(whole_way * (t - t_next) - 1e-9)
        grid = torch.linspace(t, t_next, steps + 1, dtype=torch.float64)

        def draw(x: Tensor, condition: Any) -> Tensor:
            return solve(
                self._velocity, x, condition, method=self.setting.sampler.method, grid=grid
            )

        return self._evaluate(draw, x)

    def predict_end(self, x: Tensor, t: float) -> Tensor:
        """x + t u(x, t)."""

        def draw(x: Tensor, condition: Any) -> Tensor:
            time = torch.full((len(x),), t, device=x.device)
            return x + expand(time, x) * self._velocity(x, time, condition)

        return self._evaluate(draw, x)

    def posterior(self, x: Tensor, t: float, numbers: range) -> Tensor:
        """Draws of the student's posteriors, in one evaluation each."""
        student, guidance = self.setting.student, self.setting.sampler.guidance

        def draw(both: Tensor, condition: Any) -> Tensor:
            self.used += Evaluations(student=len(both))
            e, x = both.unbind(1)
            return draw_posterior(student.network, e, x, t, condition, guidance, 1)

        return self._evaluate(draw, self._with_noise(x, numbers))

    def posterior_gradient(self, x: Tensor, t: float, numbers: range) -> tuple[Tensor, Tensor]:
        """Scores of such draws and their gradients in x: a gradient counts as two evaluations
        more.
        """
        student, guidance = self.setting.student, self.setting.sampler.guidance
        score = scores_with_gradient(self.setting.verifier, student.teacher)

        def draw(both: Tensor, condition: Any) -> Tensor:
            self.used += Evaluations(student=3 * len(both))
            with torch.enable_grad():
                e, x = both.unbind(1)
                x = x.requires_grad_()
                x0 = draw_posterior(student.network, e, x, t, condition, guidance, 1)
                scores = score(x0, condition)
                (gradient,) = torch.autograd.grad(scores.sum(), x)
            return torch.cat([scores.detach()[:, None], gradient.flatten(1)], 1)

        both = self._evaluate(draw, self._with_noise(x, numbers))
        self.verified += len(both)
        return both[:, 0], both[:, 1:].unflatten(1, x.shape[1:])

    def _with_noise(self, x: Tensor, numbers: range) -> Tensor:
        """Inner noises and states, [len(numbers) * G, 2, ...]."""
        return torch.stack([self.noise(numbers), repeat_rows(x, len(numbers))], 1)

    def score(self, x: Tensor) -> Tensor:
        """Return the verifier's scores.

        Raises:
            ValueError: no such scores from the verifier: another shape, or NaN.
        """

        def draw(x: Tensor, condition: Any) -> Tensor:
            seen = pictures(
                self.setting.student.teacher, x, batch_size=self.setting.decode_batch_size
            )
            scores = self.setting.verifier(seen, condition)
            if not isinstance(scores, Tensor) or scores.shape != (len(x),):
                got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(
                    f"a verifier gives one score a sample, shape [{len(x)}]; this one gave {got}"
                )
            if bool(scores.isnan().any()):
                raise ValueError(
                    "the verifier gave NaN for a score: no sample is better than that one"
                )
            return scores.float()

        self.verified += len(x)
        return self._evaluate(draw, x)

    def _velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        gamma = self.setting.sampler.guidance
        teacher = self.setting.sampler.teacher
        branches = 1 if gamma == 1 else teacher.guided_evaluations
        self.used += Evaluations(teacher=len(x) * branches)
        return teacher.guided_velocity(condition, gamma=gamma)(x, t)

    def _evaluate(self, draw: Callable[[Tensor, Any], Tensor], x: Tensor) -> Tensor:
        """draw(x, condition) of rows [C * G, ...] in batches; each row counts what it cost."""
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(self.rows):
            before = self.used
            parts.append(evaluate_rows(draw, x[rows], take(self.condition, rows % self.samples)))
            one = (self.used - before).share(-(-len(rows) // ROWS) * ROWS)
            self.asked += Evaluations(one.student * len(rows), one.teacher * len(rows))
        return torch.cat(parts)


def freeze(verifier: Callable[..., Tensor], device: torch.device | str) -> Callable[..., Tensor]:
    """Return a verifier ready for use: one that is a module is moved to the device, put in eval
    mode and frozen.
    """
    if isinstance(verifier, nn.Module):
        return verifier.to(device).eval().requires_grad_(False)
    return verifier
