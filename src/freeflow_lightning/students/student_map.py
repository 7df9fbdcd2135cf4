"""StudentMap: a trained student draws: noise to a sample in one network evaluation or in a few."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning import flow
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.nets import device_of, map_noise, map_state
from freeflow_lightning.sampling.counter_noise import NoiseVersion
from freeflow_lightning.sampling.draw import Draw, evaluate_rows
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.students.posterior_draws import (
    check_inner_steps,
    draw_end,
    draw_posterior,
    inner_noise,
)
from freeflow_lightning.students.read_condition import read_condition
from freeflow_lightning.students.read_numbers import read_numbers
from freeflow_lightning.students.sample_noise import (
    Generators,
    NoiseOfGenerator,
    NoiseOfSeed,
    NoiseSource,
    refuse_seed,
)
from freeflow_lightning.teachers import Teacher


class StudentMap(nn.Module):
    """What a `FlowMap` draws with; that one also knows the files of students."""

    def __init__(
        self,
        network: nn.Module,
        teacher: Teacher,
        guidance_range: tuple[float, float] = (1.0, 2.0),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module) or not isinstance(teacher, Teacher):
            found = f"{type(network).__name__} and {type(teacher).__name__}"
            raise ValueError(f"expected a network and its Teacher, got {found}")
        flow.check_pairs(0, math.inf, guidance_range=guidance_range)
        self.network = network.eval()
        self.teacher = teacher
        self.guidance_range = guidance_range
        self.about = dict(about or {})

    @property
    def pairs(self) -> flow.Pairs:
        """Between which times the student was trained to map; from the prior to any where nothing
        says it, as 0.1.0 trained.
        """
        return flow.Pairs(self.about.get("pairs") or flow.Pairs.PRIOR_TO_ANY)

    @property
    def trained(self) -> flow.Trained:
        """What its maps were trained for: `pairs`, and the start times where these are a list."""
        starts = self.about.get("starts")
        return flow.Trained(self.pairs, None if starts is None else tuple(starts))

    @property
    def evaluation_guidance(self) -> float:
        """Gamma where none is given: the run's own, or the middle of the range if nothing says
        it.
        """
        known = self.about.get("evaluation_guidance")
        return float(sum(self.guidance_range) / 2 if known is None else known)

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return device_of(self.network)

    @torch.no_grad()
    def forward(
        self,
        z: Tensor,
        condition: Any = None,
        guidance: float | Tensor = 1.5,
        delta: float | Tensor = 1.0,
    ) -> Tensor:
        """f(z, delta) in one evaluation: noise z [B, *sample_shape] to samples at delta = 1, in
        float32.

        Guidance and delta (in [0, 1]) are numbers or [B]; a condition is one label for each sample,
        or what the teacher draws.

        Raises:
            ValueError: noise, numbers or a condition of another shape or kind.
        """
        self.check_noise(z)
        given = read_condition(self.teacher, condition, len(z), z.device)
        span = read_numbers("delta", delta, z, 1)
        gamma = read_numbers("guidance", guidance, z)
        return map_noise(self.network, z, given, delta=span, gamma=gamma)

    @torch.no_grad()
    def jump(
        self,
        z: Tensor,
        condition: Any = None,
        guidance: float = 1.5,
        jumps: Jumps = ONE_STEP,
    ) -> Tensor:
        """Samples [B, *sample_shape] of noise z [B, *sample_shape] in one step or several.

        Raises:
            ValueError: jumps that the student was not trained for (`pairs`).
        """
        jumps = jumps.at_trained_times(self.trained)
        self.check_noise(z)
        given = read_condition(self.teacher, condition, len(z), z.device)
        gamma = read_numbers("guidance", guidance, z)

        def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return map_state(self.network, x, given, t=t, delta=t - s, gamma=gamma)

        def draw(e: Tensor, x: Tensor, t: Tensor) -> Tensor:
            return draw_end(self.network, e, x, t, given, gamma)

        return jumps(f, z, draw=draw)

    def chain(
        self, z: Tensor, condition: Any = None, guidance: float = 1.5, *, steps: int = 1
    ) -> Tensor:
        """x <- f(x, t_k, t_{k+1}) along a uniform grid of `steps` evaluations: `jump` by a
        chain.
        """
        return self.jump(z, condition, guidance, Jumps(steps))

    def sample(
        self,
        n: int,
        condition: Any = None,
        guidance: float = 1.5,
        seed: int = 0,
        *,
        batch_size: int = 256,
        first: int = 0,
        steps: int = 1,
        sampler: SamplerName = "chain",
        noise_share: float | None = None,
        noise: NoiseVersion = "v1",
        generator: Generators | None = None,
    ) -> Tensor:
        """Samples number `first` to `first + n - 1` of the given seed, [n, *sample_shape].

        Args:
            n: how many, at least 1.
            condition: one condition per sample, or None to draw them; class labels [n], a tensor or
                a list, for a class-conditional student.
            guidance: gamma; a warning names the trained range if it is left.
            seed: sample i is a function of (seed, i).
            batch_size: samples per evaluation; has no influence on the samples.
            first: index of the first sample, to continue an earlier call.
            steps: evaluations of the student per sample.
            sampler: of more steps than one: "chain" follows the teacher's path, "renoise" goes to
                data and noises anew in each step, "gamma" is between them, "kernel" and
                "transition" draw from the posterior of each state (see `Jumps`).
            noise_share: of "gamma": how much of each step is noised anew, from 0 (chain) to 1
                (renoise); 0.5 if not given. The noise too is a function of (seed, i).
            noise: how it is drawn: "v1", or "v2" by counter (other samples, drawn faster where they
                are small).
            generator: takes the place of the seed, as in diffusers: torch's, which then moves on,
                or a list with one for each sample.

        Raises:
            ValueError: steps by a sampler that the student was not trained for (`pairs`), or a seed
                beside a generator.
        """
        jumps = Jumps(steps, sampler, noise_share).at_trained_times(self.trained)
        flow.check_counts(1, n=n, batch_size=batch_size)
        flow.check_counts(0, first=first)
        flow.check_counts(-math.inf, seed=seed)
        self.check_guidance(guidance)
        if condition is not None:
            condition = read_condition(self.teacher, condition, n, self.device)
        of_all = (self.teacher, condition, self.device)
        if generator is None:
            source: NoiseSource = NoiseOfSeed(*of_all, Draw(seed, version=noise), first)
        else:
            refuse_seed(seed, first)
            source = NoiseOfGenerator(*of_all, n, generator)
        parts = []
        for index in torch.arange(n).split(batch_size):
            z, given = source(index)
            parts.append(evaluate_rows(lambda z, c: self.jump(z, c, guidance, jumps), z, given))
        return torch.cat(parts)

    @torch.no_grad()
    def posterior(
        self,
        x: Tensor,
        t: float,
        n: int,
        condition: Any = None,
        guidance: float | None = None,
        seed: int = 0,
        *,
        steps: int = 1,
    ) -> Tensor:
        """Draws of p(x0 | x_t = x) for each state, [n, B, *sample_shape], of a Meta Flow Map.

        Args:
            x: noised states, [B, *sample_shape].
            t: their time in [0, 1]; 1 is noise.
            n: draws for each.
            condition: of each state; class labels [B] for a class-conditional student.
            guidance: gamma; that of the run's validation if not given. A guided student's draws
                are of no posterior.
            seed: draw i of state b is a function of (seed, b, i).
            steps: evaluations for each draw.

        Raises:
            ValueError: a student that PosteriorModule has not trained, or steps that it was not
                trained for.
        """
        check_inner_steps(self.trained, steps)
        self.check_noise(x)
        flow.check_counts(1, n=n)
        flow.check_counts(-math.inf, seed=seed)
        gamma = self.evaluation_guidance if guidance is None else guidance
        self.check_guidance(gamma)
        given = read_condition(self.teacher, condition, len(x), x.device)
        noise = inner_noise(n, len(x), tuple(x.shape[1:]), seed).to(x.device)
        return torch.stack(
            [draw_posterior(self.network, e, x, t, given, gamma, steps) for e in noise]
        )

    def check_noise(self, z: Tensor) -> None:
        """Refuse noise that is not of the student's shape, or holds no sample (ValueError)."""
        if not isinstance(z, Tensor) or not z.is_floating_point() or not z.numel():
            found = f"{z.dtype} {list(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"expected noise as a tensor of at least one sample, got {found}")
        if z.shape[1:] != tuple(self.teacher.sample_shape):
            raise ValueError(
                f"expected noise [batch, {str(list(self.teacher.sample_shape))[1:]}, got "
                f"{list(z.shape)}"
            )

    def check_guidance(self, guidance: float) -> None:
        """Warn where gamma is outside the range that the student was trained for; refuse what is no
        guidance.
        """
        flow.check_numbers(0, guidance=guidance)
        low, high = self.guidance_range
        if not low <= guidance <= high:
            warnings.warn(
                f"guidance {guidance} is outside [{low}, {high}], which this student was trained "
                f"for",
                stacklevel=3,
            )
