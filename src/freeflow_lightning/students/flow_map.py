"""FlowMap: a trained student for inference: noise to a sample in one network evaluation or a few."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn

from freeflow_lightning import flow
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.nets import map_noise, map_state
from freeflow_lightning.sampling.counter_noise import NoiseVersion
from freeflow_lightning.sampling.draw import Draw, evaluate_rows, pictures
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.sampling.sample_files import save_sheet
from freeflow_lightning.students.export import (
    PICTURE,
    UNKNOWN,
    push_folder,
    seal,
    write_card,
)
from freeflow_lightning.students.export.hub import MESSAGE
from freeflow_lightning.students.export.read_exported import read_exported
from freeflow_lightning.students.export.write_exported import write_exported, write_student_folder
from freeflow_lightning.students.official_weights import VAE, OfficialConvention, read_official
from freeflow_lightning.students.posterior_draws import (
    check_inner_steps,
    draw_end,
    draw_posterior,
    inner_noise,
)
from freeflow_lightning.students.read_condition import read_condition
from freeflow_lightning.students.sample_noise import (
    Generators,
    NoiseOfGenerator,
    NoiseOfSeed,
    NoiseSource,
    refuse_seed,
)
from freeflow_lightning.students.student import Student
from freeflow_lightning.students.training_checkpoint import read_training_checkpoint
from freeflow_lightning.teachers import Conditions, LatentDecoder, Teacher
from freeflow_lightning.teachers.reading.hub import HubAccess


class FlowMap(nn.Module):
    """f(z, 1) = z + F(z, 1, c, delta = 1, gamma), with what is needed to draw and decode its
    samples.

    Args:
        network: the student, (x, t, condition, delta=, gamma=) -> F.
        teacher: gives shapes, conditions and the decoder; its velocity is not used.
        guidance_range: the gammas that the student was trained for.
        about: where the student comes from, as plain values: what an exported folder says of it.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: Teacher,
        guidance_range: tuple[float, float] = (1.0, 2.0),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        flow.check_pairs(0, math.inf, guidance_range=guidance_range)
        self.network, self.teacher, self.guidance_range, self.about = (
            network.eval(),
            teacher,
            guidance_range,
            dict(about or {}),
        )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        average: str | None = None,
        ema_length: float | None = None,
        teacher: Teacher | None = None,
        network: nn.Module | None = None,
        trust: str | Sequence[str] | None = None,
    ) -> "FlowMap":
        """The student of a training checkpoint, from its first average (or the one named) if it has
        any.

        A checkpoint says what its student was made of. Only the student's own weights are read, not
        the optimizer's state.

        Args:
            path: a checkpoint that `freeflow fit` or a Trainer wrote, a file or a folder, or a
                run's folder, for its last one. Nothing in it is executed.
            average: name of the average, for example "ema_0_9999", or "raw" for the trained weights
                themselves.
            ema_length: instead, the length of an average that is made of the snapshots of
                PostHocEMA, as a share of the run in (0, 0.2886].
            teacher: takes the place of the recorded one; needed where the checkpoint cannot say it.
            network: the same for the network that the student started from, with any weights.
            trust: class paths outside this package that the checkpoint may import.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of a Distillation, an unknown average, or something that it
                cannot say.
        """
        return cls(
            *read_training_checkpoint(
                path,
                average=average,
                ema_length=ema_length,
                teacher=teacher,
                network=network,
                trust=trust,
            )
        )

    @classmethod
    def from_official(
        cls,
        path: str | Path,
        convention: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
        *,
        vae: str | LatentDecoder | None = VAE,
        guidance_range: tuple[float, float] = (1.0, 2.0),
        num_heads: int | None = None,
        input_size: int | None = None,
    ) -> "FlowMap":
        """A student from the FreeFlow authors' weights: a SiT with one embedder each of delta and
        gamma.

        Args:
            path: .pt, .pth, .ckpt or .safetensors. Nothing in it is executed.
            convention: how to read it; what is "auto" is measured and said.
            vae: what decodes its latents, loaded for the first picture; None shows the latents.
            guidance_range: the gammas it was trained for (Table 6).
            num_heads: attention heads, where the width is none of the published ones.
            input_size: side of the latents, only for a file without position embedding: 32 at 256,
                64 at 512.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, embedders that are not recognised, or an "auto" that the
                samples do not decide.
        """
        student = read_official(
            path,
            convention,
            vae=vae,
            guidance_range=guidance_range,
            num_heads=num_heads,
            input_size=input_size,
        )
        return cls(*student)

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        conditions: Conditions | None = None,
        network: nn.Module | None = None,
        trust: str | Sequence[str] | None = None,
    ) -> "FlowMap":
        """The student of a folder that `save_pretrained` or `freeflow export` wrote, without its
        teacher.

        Every file is checked against its hash, and nothing in the folder is executed. A network
        that is not of this package or of diffusers is only made from what you hand over: the
        network itself, or your leave to import its class.

        Args:
            place: a folder, or a hub repository ("owner/name").
            revision: commit, tag or branch of the repository; a commit pins it.
            token: with read access; the one of `hf auth login` or $HF_TOKEN if not given.
            cache_dir: where files of the hub are kept; $HF_HOME/hub if not given.
            local_files_only: look into that cache alone.
            dtype: of the student's weights; as they were exported if not given.
            device: to move it to; the CPU if not given.
            conditions: for a student of prompts, Prompts("folder that freeflow embed wrote").
            network: for a student of your own network, that network with any weights.
            trust: or the class paths that may be imported for it, exactly as the folder names them.

        Raises:
            FileNotFoundError: no such folder or repository, or one that lacks a file.
            ValueError: a changed file, weights that do not fit, or a network of one's own without
                `network` or `trust`.
        """
        hub = HubAccess(revision, cache_dir, local_files_only, token)
        made = cls(
            *read_exported(place, hub=hub, conditions=conditions, network=network, trust=trust)
        )
        if dtype is not None:
            made.network.to(dtype)
        return made if device is None else made.to(device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        network_arguments: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write the student into a folder for `from_pretrained`, and see that it comes back bit for
        bit.

        An adapter is merged into a network that stands alone, which agrees with it up to rounding.

        Args:
            folder: to write to; made if it does not exist.
            network_arguments: constructor arguments of a network of your own, where the config does
                not name them.
            overwrite: replace an exported student that the folder holds.

        Returns:
            What freeflow.json says.

        Raises:
            ValueError: the folder is not empty, or a part of the student that a folder cannot hold.
        """
        with write_exported(Path(folder), overwrite) as made:
            return self.write_to(made, network_arguments)

    def write_to(
        self, folder: Path, network_arguments: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """`save_pretrained` into an empty folder, without its guard."""
        student = Student(self.network, self.teacher, self.guidance_range, self.about)
        return write_student_folder(student, folder, network_arguments)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        licence: str = UNKNOWN,
        private: bool = False,
        token: str | None = None,
        commit_message: str = MESSAGE,
        create_pr: bool = False,
        revision: str | None = None,
        network_arguments: Mapping[str, Any] | None = None,
        api: HfApi | None = None,
    ) -> str:
        """Export the student with a model card and upload it; `freeflow export --push` can do more.

        Args:
            repo_id: "owner/name", made if it is not there.
            licence: of the teacher's weights, which holds for the student's too.
            private: whether a new repository is private.
            token: with write access; the one of `hf auth login` or $HF_TOKEN if not given.
            commit_message: of the commit.
            create_pr: propose the commit in a pull request, rather than make it.
            revision: branch that it goes to; the repository's main one if not given.
            network_arguments: as in `save_pretrained`.
            api: of the hub.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ValueError: no permission, no network, or a part of the student that a folder cannot
                hold.
        """
        with TemporaryDirectory() as place:
            folder = Path(place) / "student"
            folder.mkdir()
            manifest = self.write_to(folder, network_arguments)
            self.draw_picture(folder / PICTURE)
            write_card(folder, seal(folder, manifest), licence, repo_id)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                create_pr=create_pr,
                revision=revision,
                api=api,
            )

    def draw_picture(
        self,
        path: Path,
        guidance: float | None = None,
        n: int = 16,
        jumps: Jumps = ONE_STEP,
    ) -> str:
        """A sheet of samples at the given gamma or the run's; says why there is none where they
        cannot be drawn.
        """
        gamma = self.evaluation_guidance if guidance is None else guidance
        try:
            samples = self.sample(
                n,
                guidance=gamma,
                steps=jumps.steps,
                sampler=jumps.sampler,
                noise_share=jumps.noise_share,
            )
            drawn = pictures(self.teacher, samples, batch_size=4)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        if drawn.ndim != 4:
            return f"samples of shape {list(drawn.shape[1:])} are no pictures"
        save_sheet(drawn, path)
        return ""

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
        """Gamma where none is given: the run's own, or the middle of the range if nothing says it."""
        known = self.about.get("evaluation_guidance")
        return float(sum(self.guidance_range) / 2 if known is None else known)

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.network.parameters()).device

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
        """
        self.check_noise(z)
        given = read_condition(self.teacher, condition, len(z), z.device)
        one = torch.ones(len(z), device=z.device)
        return map_noise(self.network, z, given, delta=one * delta, gamma=one * guidance)

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
        gamma = torch.full((len(z),), float(guidance), device=z.device)

        def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return map_state(self.network, x, given, t=t, delta=t - s, gamma=gamma)

        def draw(e: Tensor, x: Tensor, t: Tensor) -> Tensor:
            return draw_end(self.network, e, x, t, given, gamma)

        return jumps(f, z, draw=draw)

    def chain(
        self, z: Tensor, condition: Any = None, guidance: float = 1.5, *, steps: int = 1
    ) -> Tensor:
        """x <- f(x, t_k, t_{k+1}) along a uniform grid of `steps` evaluations: `jump` by a chain."""
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
        gamma = self.evaluation_guidance if guidance is None else guidance
        self.check_guidance(gamma)
        given = read_condition(self.teacher, condition, len(x), x.device)
        noise = inner_noise(n, len(x), tuple(x.shape[1:]), seed).to(x.device)
        return torch.stack(
            [draw_posterior(self.network, e, x, t, given, gamma, steps) for e in noise]
        )

    def check_noise(self, z: Tensor) -> None:
        """Refuse noise that is not of the student's shape (ValueError)."""
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
