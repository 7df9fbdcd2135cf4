"""A third recipe, as a user writes one: a map between any two times, in one file."""

from torch import nn

from freeflow_lightning.flow import CentralDifference, Pairs, SortedPair, TeacherPath
from freeflow_lightning.objectives import Lagrangian
from freeflow_lightning.recipes import Distillation, Step
from freeflow_lightning.teachers import Teacher


class PathModule(Distillation):
    """F(x, t, s) between any two times, trained on the teacher's own path by the Lagrangian form."""

    pairs = Pairs.ANY_TO_ANY

    def __init__(
        self, teacher: Teacher, network: nn.Module | None = None, student_lr: float = 1e-2
    ) -> None:
        super().__init__(teacher, network, student_lr=student_lr)
        self.times = SortedPair()
        self.states = TeacherPath(4)
        self.form = Lagrangian(CentralDifference(1e-2))

    def draw(self, size, generator):
        draws = self.draws(generator)
        z, condition, gamma = draws.prior(size)
        return z, condition, draws.to_device(gamma), *self.times.sample(size, generator)

    def loss(self, draw):
        z, condition, gamma, t, delta = draw
        F, u = self.student_at(z, condition, gamma), self.teacher_at(z, condition, gamma)
        x = self.states.draw(t, F, u, z, z)
        residual = self.form.residual(F, u, x, t, delta)
        return Step(residual.surrogate().mean() / self.student_scale, {"map": residual})

    def evaluations_per_sample(self):
        return {
            "student": 1.0 + self.form.student_evaluations,
            "teacher": 2 * (self.form.teacher_evaluations + self.states.teacher_evaluations),
        }
