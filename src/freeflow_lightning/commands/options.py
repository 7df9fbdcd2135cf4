"""Options that several verbs share, each documented once; what a verb has alone stands in its
file.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from freeflow_lightning.commands.run import Options
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.flow.solver import RuleName
from freeflow_lightning.sampling.counter_noise import NoiseVersion
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.official_convention import OfficialConvention
from freeflow_lightning.students.open_student import (
    Overrides,
    open_student,
)
from freeflow_lightning.students.sampler_options import (
    StepOptions,
    draw_of_options,
    sampler_of_options,
)
from freeflow_lightning.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """the student

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote, or a run's folder, for its last one.
        average: which moving average, for example ema_0_9999, or raw for the trained weights; the
            first one if not given.
        ema_length: instead, the length of an average that is made of the snapshots of PostHocEMA,
            as a share of the run: 0.1 is its last tenth, roughly.
    """

    checkpoint: str
    average: str | None = None
    ema_length: float | None = None

    def open(self, overrides: Overrides) -> FlowMap:
        """Return the student, with what the user gives beside the checkpoint."""
        return open_student(
            self.checkpoint, self.average, overrides=overrides, ema_length=self.ema_length
        )


@dataclass(frozen=True, kw_only=True)
class StudentOptions(CheckpointOptions):
    """the student

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote, or a run's folder, for its last one; a
            folder or hub repository that `freeflow export` wrote; or the FreeFlow authors' weights.
        image_size: of official weights: height and width of the pictures, 256 or 512; must be the
            file's.
        vae: of official weights: folder or hub repository of the VAE; stabilityai/sd-vae-ft-ema if
            not given.
        official: how to read official weights; what is auto is measured and said.
        prompts: of an exported student of prompts: folder that `freeflow embed` wrote.
    """

    image_size: Literal[256, 512] | None = None
    vae: str | None = None
    official: OfficialConvention = OfficialConvention()  # noqa: RUF009 (frozen)
    prompts: str | None = None

    def open(self, overrides: Overrides) -> FlowMap:
        """Return the student, with what the user gives beside the checkpoint."""
        return open_student(
            self.checkpoint,
            self.average,
            self.image_size,
            self.vae,
            self.official,
            self.prompts,
            overrides,
            self.ema_length,
        )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """beside the checkpoint

    Args:
        network: takes the place of the network that the checkpoint's student started from, or says
            it where the checkpoint cannot: its class, then its arguments as --network.NAME.
        trust: class paths outside this package that the checkpoint may import.
    """

    network: nn.Module | None = None
    trust: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(NetworkOptions):
    """beside the checkpoint

    Args:
        teacher: takes the place of the checkpoint's teacher: its class, then its arguments as
            --teacher.NAME.
    """

    teacher: Teacher | None = None

    @property
    def overrides(self) -> Overrides:
        """What the user gives beside the checkpoint."""
        return Overrides(self.teacher, self.network, self.trust)


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(NetworkOptions):
    """beside the checkpoint, and who draws in how many steps

    Args:
        teacher: let the student's teacher draw, from the same noise. Or a Teacher, its class and
            then its arguments as --teacher.NAME, which takes the place of the checkpoint's; it
            draws if --method is given.
        steps: steps from noise to a sample: 1 if not given, more where the student was trained for
            them; the teacher's are 64 if not given.
        sampler: how the student takes more steps than one: chain (along the teacher's path; if not
            given), renoise (to data and noised anew, each step), gamma (between them) or kernel (to
            a draw of the state's posterior and noised anew, a student of PosteriorModule).
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 (chain) to 1
            (renoise); 0.5 if not given.
        method: the teacher's one-step rule; heun if not given.
    """

    teacher: bool | Teacher = False
    steps: int | None = None
    sampler: SamplerName | None = None
    noise_share: float | None = None
    method: RuleName | None = None

    @property
    def overrides(self) -> Overrides:
        """What the user gives beside the checkpoint."""
        given = self.teacher if isinstance(self.teacher, Teacher) else None
        return Overrides(given, self.network, self.trust)

    @property
    def teacher_draws(self) -> bool:
        """Whether the teacher draws rather than the student."""
        if isinstance(self.teacher, Teacher):  # which takes the place of the checkpoint's
            return self.method is not None
        return self.teacher

    @property
    def way(self) -> dict[str, Any]:
        """Who draws and in how many steps, by the names of a Python function's arguments."""
        return {
            "teacher": self.teacher_draws,
            "steps": self.steps,
            "sampler": self.sampler,
            "noise_share": self.noise_share,
            "method": self.method,
        }

    def sampler_of(self, student: FlowMap, guidance: float) -> Sampler:
        """Return who draws at a guidance: the student, or the teacher."""
        told = StepOptions(self.steps, self.method, self.sampler, self.noise_share)
        return sampler_of_options(student, guidance, self.teacher_draws, told)


@dataclass(frozen=True, kw_only=True)
class JumpOptions(Options):
    """the student's steps

    Args:
        steps: evaluations of the student per sample; more than 1 where it was trained for them.
        sampler: how more than one are joined: chain (along the teacher's path), renoise (to data
            and noised anew, each step), gamma (between them) or kernel (draws of posteriors).
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 (chain) to 1
            (renoise); 0.5 if not given.
    """

    steps: int = 1
    sampler: SamplerName = "chain"
    noise_share: float | None = None

    @property
    def jumps(self) -> Jumps:
        """From noise to a sample (Raises: ValueError for steps that there are not)."""
        return Jumps(self.steps, self.sampler, self.noise_share)


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(Options):
    """noise and classes

    Args:
        seed: seed of the noise and of drawn classes.
        classes: class labels, repeated in turn; drawn uniformly if not given.
        balanced: every class in turn, equally many of each. Papers with drawn classes report a
            slightly higher FID.
    """

    seed: int = 0
    classes: list[int] | None = None
    balanced: bool = False

    def draw(self, teacher: Teacher) -> Draw:
        """Return the noise and the conditions, for a teacher that has these classes."""
        return draw_of_options(teacher, self.seed, self.classes, self.balanced)


@dataclass(frozen=True, kw_only=True)
class VersionedNoiseOptions(NoiseOptions):
    """noise and classes

    Args:
        noise: how it is drawn: v1, as every figure and folder so far; v2 by counter, other samples,
            which are drawn faster where they are small.
    """

    noise: NoiseVersion = "v1"

    def draw(self, teacher: Teacher) -> Draw:
        return super().draw(teacher)._replace(version=self.noise)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """where it runs

    Args:
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
    """

    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class WorkOptions(DeviceOptions):
    """where it runs

    Args:
        devices: processes to start, one per accelerator (or on the CPU's cores).
        batch_size: samples per network evaluation; has no influence on the result.
        decode_batch_size: samples that a latent teacher's decoder takes at once.
    """

    devices: int = 1
    batch_size: int = 256
    decode_batch_size: int = 64

    @property
    def sizes(self) -> dict[str, Any]:
        """How much at once, by the names of a Python function's arguments."""
        return {"batch_size": self.batch_size, "decode_batch_size": self.decode_batch_size}

    def check_counts(self, num_samples: int) -> None:
        """Raise a ValueError unless there is something to do, and batches to do it in."""
        counts = (num_samples, self.batch_size, self.decode_batch_size)
        if min(counts) < 1:
            raise ValueError(
                f"expected at least one sample and batches of at least one, got {counts[0]}, "
                f"{counts[1]} and {counts[2]}"
            )


@dataclass(frozen=True, kw_only=True)
class FolderOptions(Options):
    """the folder of samples

    Args:
        npz: write samples.npz instead of single pictures.
        overwrite: remove what the folder's own notes list as this verb's, and nothing else.
    """

    npz: bool = False
    overwrite: bool = False
