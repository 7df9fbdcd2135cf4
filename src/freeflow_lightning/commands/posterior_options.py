"""The options of freeflow sample for posterior draws, and who draws where there may be no
student.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from freeflow_lightning.commands.options import (
    NoiseOptions,
    Options,
    SamplerOptions,
    StudentOptions,
)
from freeflow_lightning.sampling.noised_states import NoisedStates, read_states
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_posterior import TeacherPosterior
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.student_posterior import StudentPosterior
from freeflow_lightning.teachers import Teacher

SamplerAt = Callable[[float], Sampler]
"""Who draws at a guidance scale."""


@dataclass(frozen=True, kw_only=True)
class PerhapsStudentOptions(StudentOptions):
    """the student

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote, or a run's folder, for its last one; a
            folder or hub repository that `freeflow export` wrote; or the FreeFlow authors' weights.
            Without one the teacher of --teacher CLASS draws alone.
    """

    checkpoint: str = ""

    def open_or_none(self, beside: SamplerOptions) -> FlowMap | None:
        """Return the student; None where only a teacher is given.

        Raises:
            ValueError: neither is, or options of a student without one.
        """
        if self.checkpoint:
            return self.open(beside.overrides)
        if not isinstance(beside.teacher, Teacher):
            raise ValueError(
                "expected who draws: a checkpoint for its student, or --teacher CLASS (such as "
                "SiTTeacher --teacher.checkpoint embedded:faces) for a teacher alone"
            )
        of_student = self != type(self)() or beside.network is not None or beside.trust is not None
        if of_student or beside.sampler is not None or beside.noise_share is not None:
            raise ValueError(
                "without a checkpoint there is no student: leave its options out (--average, "
                "--image_size, --vae, --official, --prompts, --network, --trust, --sampler, "
                "--noise_share)"
            )
        return None


@dataclass(frozen=True, kw_only=True)
class PosteriorOptions(Options):
    """draws of what a noised state may have been, p(x0 | x_t)

    Args:
        posterior: file of noised states to draw from: a picture, which --time noises; an .npz or
            .pt of states x [S, ...] and their times t, or of clean samples x0 (or arr_0, as
            --npz writes them) for --time; or an .npy of states, with --time. Sample i is draw
            i // S of state i % S. A teacher draws exactly, by GLASS, in --steps; a student of
            PosteriorModule in one. --classes are those of the states, in turn; draws are without a
            class if not given, and at guidance 1.
        time: t of the states, above 0 (clean) to 1 (noise).
    """

    posterior: str | None = None
    time: float | None = None

    def read(self, teacher: Teacher, noise: NoiseOptions) -> NoisedStates | None:
        """Return the noised states; None where samples are asked for (Raises: ValueError, as
        `read_states`).
        """
        if self.posterior is None:
            if self.time is not None:
                raise ValueError("--time is that of noised states: add --posterior FILE")
            return None
        classes = noise.draw(teacher).classes
        return read_states(
            Path(self.posterior), teacher, self.time, seed=noise.seed, classes=classes
        )


def sampler_at(
    student: FlowMap | None, beside: SamplerOptions, states: NoisedStates | None
) -> SamplerAt:
    """Return who draws samples, or posterior draws of states: the student, or a teacher.

    Raises:
        ValueError: options of the one where the other draws, or a student that draws no posteriors.
    """
    teacher_draws = student is None or beside.teacher_draws
    teacher = beside.teacher if student is None else student.teacher
    assert isinstance(teacher, Teacher)  # `open_or_none` refuses others
    steps, method = beside.steps, beside.method or "heun"
    if states is None:
        if student is not None:
            return lambda gamma: beside.sampler_of(student, gamma)
        return lambda gamma: TeacherSampler(teacher, method, 64 if steps is None else steps, gamma)

    if beside.sampler is not None or beside.noise_share is not None:
        raise ValueError(
            "--sampler and --noise_share do not change posterior draws: leave them out"
        )
    if student is None or teacher_draws:
        return lambda gamma: TeacherPosterior(
            teacher, method, 64 if steps is None else steps, gamma
        )
    if beside.method is not None:
        raise ValueError("--method is the teacher's: add --teacher, or leave it out")
    if teacher.num_classes and states.labels is None:
        raise ValueError(
            "this student was trained with classes: say those of the states with --classes"
        )
    return lambda gamma: StudentPosterior(student, gamma, 1 if steps is None else steps)
