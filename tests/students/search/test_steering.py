"""Steered paths against the tilted mixture, p(x0) exp <a, x0>: a mixture again, known in closed form."""

import pytest
import torch
from torch import nn

from freeflow_lightning import FlowMap, PosteriorModule
from freeflow_lightning.commands.tasks.search import search
from freeflow_lightning.flow import expand
from freeflow_lightning.nets import StateConditioned
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.search import Steering
from freeflow_lightning.students.search.evaluations import Evaluations
from freeflow_lightning.students.search.noise_search import NoiseSearch
from freeflow_lightning.students.search.value_gradient import check_value_gradient
from freeflow_lightning.teachers import GaussianMixtureTeacher
from recipes.test_posterior import ExactPosterior
from students.search.test_noise_search import Counted
from tiny import mixture, mlp, shaken

LINE = GaussianMixtureTeacher([[-1.2], [1.0]], [0.4, 0.3], [0.6, 0.4])
TILT = 1.0
N = 4000


class ExactDraws:
    """A context of N samples whose posterior draws are exact, and whose score is TILT x0."""

    samples, together = N, 64

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def noise(self, numbers):
        return torch.randn(len(numbers) * N, 1, generator=self.generator)

    def predict_end(self, x, t):
        time = torch.full((len(x),), t)
        return x + expand(time, x) * LINE.velocity(x, time)

    def posterior(self, x, t, numbers):
        law = LINE.posterior(x, torch.full((len(x),), t))
        return law.sample(len(numbers), self.generator).flatten(0, 1)

    def score(self, x):
        return TILT * x[:, 0]


def tilted_cdf(x):
    """The mixture of means m + s^2 a and log weights + a m + a^2 s^2 / 2."""
    m, s = LINE.means[:, 0], LINE.std
    w = (LINE.log_weights + TILT * m + TILT**2 * s**2 / 2).softmax(0)
    return (w * torch.distributions.Normal(m + s**2 * TILT, s).cdf(x)).sum(1)


def distance(x):
    x = x.flatten().sort().values
    places = (torch.arange(len(x)) + 0.5) / len(x)
    return float((tilted_cdf(x[:, None]) - places).abs().max())


def test_steered_by_weights_the_samples_have_the_tilted_law():
    """Of 4000 samples 0.026 is critical at 1 %; with four draws at each step 0.13."""
    found = Steering(32 * 80, 32)(ExactDraws())
    assert distance(found.state) < 0.026
    assert distance(Steering(8 * 40, 8, strength=0.0)(ExactDraws()).state) > 0.2
    assert torch.equal(found.score, TILT * found.state[:, 0])
    assert found.time == 0


def test_steering_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="as many draws at each step, got 10 candidates by 4"):
        Steering(10, 4)
    with pytest.raises(ValueError, match="steer_by weights or gradient"):
        Steering(8, 4, steer_by="hope")
    with pytest.raises(ValueError, match="draws to be an integer of at least 2"):
        Steering(8, 1)


# A student


class ExactStudent(StateConditioned):
    """The exact posterior map of one Gaussian, that sees `factor` times the state."""

    def __init__(self, teacher, factor=1.0):
        nn.Module.__init__(self)
        self.exact, self.factor = ExactPosterior(teacher), factor
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, t, condition=None, *, state=None, t_state=None, **scalars):
        state = None if state is None else self.factor * state
        return self.exact(x, t, condition, state=state, t_state=t_state, **scalars)


PLANE = GaussianMixtureTeacher([[0.5, -0.5]], 0.6)
A = torch.tensor([1.5, -1.0])


def along(samples, condition):
    return samples @ A


def exact_student(factor=1.0):
    return FlowMap(ExactStudent(PLANE, factor), PLANE, (1.0, 1.0), {"evaluation_guidance": 1.0})


@pytest.mark.parametrize("steer_by", ["weights", "gradient"])
def test_a_search_by_steering_tilts_the_samples_of_a_student(steer_by, capsys):
    options = {"algorithm": "steer", "candidates": 128, "draws": 8, "num_samples": 256}
    found = search(exact_student(), along, **options, steer_by=steer_by, teacher_steps=0)
    x = found.samples["searched"]
    expected = PLANE.means[0] + 0.36 * A
    assert (x.mean(0) - expected).abs().max() < 0.15
    if steer_by == "gradient":
        assert (x.std(0) - 0.6).abs().max() < 0.08
        said = "grad V of the student over that of GLASS rollouts: 1.00 at t = 0.25"
        assert said in capsys.readouterr().out
        assert found.report["grad V over the teacher's, by t"]["0.5"] == pytest.approx(1, abs=0.01)
    each = 3 if steer_by == "gradient" else 1
    first = 8 if steer_by == "gradient" else 0
    assert found.nfe["per sample"]["search"] == {
        "student": each * (128 - first) + first,
        "teacher": 16,
    }
    assert set(found.titles) == {"student_unsearched", "searched"}


def test_a_gradient_that_is_far_off_does_not_steer():
    for factor in (0.3, 2.5):
        with pytest.raises(
            ValueError, match=r"times the teacher's, and may steer between 0\.5 and 2"
        ):
            check_value_gradient(exact_student(factor), along, 1.0, 1.0)
    ratios = check_value_gradient(exact_student(0.8), along, 1.0, 1.0)
    assert list(ratios.values()) == pytest.approx([0.8] * 3, abs=0.02)


def test_what_cannot_steer_is_refused(checkpoint):
    student = FlowMap.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="that PosteriorModule has trained"):
        search(student, lambda x, c: x.float().mean((1, 2, 3)), algorithm="steer", num_samples=1)
    with pytest.raises(ValueError, match="--draws has no effect on --algorithm random"):
        search(student, draws=4)


@pytest.mark.parametrize("steer_by", ["weights", "gradient"])
def test_every_evaluation_is_counted_and_a_sample_does_not_depend_on_its_batch(
    steer_by, monkeypatch
):
    m = PosteriorModule(mixture(), network=mlp())
    shaken(m.student)
    teacher = TeacherSampler(m.teacher, "heun", 4, 1.5)
    how = Steering(12, 4, steer_by=steer_by)
    setting = NoiseSearch(FlowMap(m.student, m.teacher), along, how, teacher, batch_size=16)
    whole = setting(Draw(3), torch.arange(8))
    part = setting(Draw(3), torch.tensor([5]))
    assert torch.equal(part.final[0], whole.final[5])
    counted = Counted(setting, monkeypatch)
    done = setting(Draw(3), torch.arange(8))
    assert (counted.student, counted.teacher) == (12 * 8, 2 * 3 * 8)
    further = 2 * 2 * 4 * 8 if steer_by == "gradient" else 0  # two steps of three have one
    assert done.used == Evaluations(12 * 8 + further, 2 * 3 * 8)
    assert done.handed_over == Evaluations()
