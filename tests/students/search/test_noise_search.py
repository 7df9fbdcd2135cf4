"""Search with a student and its teacher: what it costs, counted around the networks; samples are functions of (seed, index)."""

from itertools import pairwise

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.flow import indexed_noise, solve
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.search import PathSearch, RandomSearch, ZeroOrderSearch
from freeflow_lightning.students.search.noise_search import Evaluations, NoiseSearch
from tiny import mixture, module

ALGORITHMS = {
    "random": RandomSearch(11),
    "zero_order": ZeroOrderSearch(10, neighbours=4),
    "paths": PathSearch(6, paths=2, branches=3, start=0.5, forward=0.2, backward=0.45),
}


def towards(samples, condition):
    """The nearer to (2, 0), and the surer of class 0, the better."""
    return -(samples - torch.tensor([2.0, 0.0])).norm(dim=1) - condition


GUIDED = ("heun", 3, 1.5)


def search(algorithm, settings=GUIDED, verifier=towards, **changes):
    m = module()
    return NoiseSearch(
        FlowMap(m.student, m.teacher),
        verifier,
        algorithm,
        TeacherSampler(m.teacher, *settings),
        **changes,
    )


class Counted:
    """Counts the rows that go through the networks of a search, by looking at the networks alone."""

    def __init__(self, setting, monkeypatch):
        self.student = self.teacher = 0
        setting.student.network.register_forward_hook(self._seen_by_student)
        velocity = setting.student.teacher.velocity

        def counting(x, t, condition):
            self.teacher += len(x)
            return velocity(x, t, condition)

        monkeypatch.setattr(setting.student.teacher, "velocity", counting)

    def _seen_by_student(self, module, inputs, output):
        self.student += len(output)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize(("n", "batch_size"), [(16, 256), (16, 24), (5, 7), (1, 256)])
@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_never_fewer_evaluations_are_reported_than_used(
    algorithm, n, batch_size, guidance, monkeypatch
):
    setting = search(algorithm, ("heun", 3, guidance), batch_size=batch_size)
    counted = Counted(setting, monkeypatch)
    done = setting(Draw(0), torch.arange(n))
    assert done.used == Evaluations(counted.student, counted.teacher)
    per_sample = done.search + done.handed_over
    assert n * per_sample.student <= counted.student
    assert n * per_sample.teacher <= counted.teacher
    if n == 16:  # nothing has to be filled up
        assert done.used == Evaluations(n * per_sample.student, n * per_sample.teacher)
    plain = setting.unsearched(Draw(0), torch.arange(n))
    assert done.used + plain.used == Evaluations(counted.student, counted.teacher)


def test_the_evaluations_are_those_of_the_paper():
    """Student once a candidate; Heun twice a step, guided four times; paths by hand."""
    one, two = (
        search(RandomSearch(11), ("heun", 3, g))(Draw(0), torch.arange(8)) for g in (1.0, 1.5)
    )
    assert (one.search, one.handed_over) == (Evaluations(11, 0), Evaluations(0, 6))
    assert (two.search, two.handed_over) == (Evaluations(11, 0), Evaluations(0, 12))
    paths = search(ALGORITHMS["paths"], ("euler", 10, 1.0), path_steps=10)(Draw(0), torch.arange(8))
    # levels 0.5, 0.25, 0: six branches go 0.7 -> 0.25 in 5 steps and are looked at once, then 0.45 -> 0 in 5
    assert paths.search == Evaluations(6 + 2, 6 * (5 + 1) + 6 * 5)
    assert paths.handed_over == Evaluations(0, 5)  # the last round's 0.45 of ten steps
    assert paths.verified == 6 + 6 + 6


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_sample_is_a_function_of_seed_and_index(algorithm):
    whole = search(algorithm)(Draw(3), torch.arange(20))
    for batch_size, group in ((1, 20), (33, 7), (256, 1)):
        setting = search(algorithm, batch_size=batch_size)
        parts = [setting(Draw(3), index) for index in torch.arange(20).split(group)]
        assert torch.equal(torch.cat([part.final for part in parts]), whole.final)
        assert torch.equal(torch.cat([part.score for part in parts]), whole.score)
        assert torch.equal(torch.cat([part.found.state for part in parts]), whole.found.state)
    assert not torch.equal(search(algorithm)(Draw(4), torch.arange(20)).final, whole.final)


def test_the_best_noise_is_one_of_the_candidates_and_goes_to_the_teacher():
    setting, index = search(RandomSearch(5)), torch.arange(12)
    done = setting(Draw(0), index)
    z, condition = Draw(0).noise(setting.student.teacher, index)
    noise = [z] + [
        indexed_noise(index, (2,), seed=0, stream=f"samples/candidate {k}") for k in range(1, 5)
    ]
    scores = torch.stack(
        [towards(setting.student(part, condition, 1.5), condition) for part in noise]
    )
    best = torch.stack(noise)[scores.argmax(0), index]
    assert torch.equal(done.found.state, best)
    torch.testing.assert_close(done.final, setting.sampler(best, condition))
    torch.testing.assert_close(done.score, towards(done.final, condition))
    plain = setting.unsearched(Draw(0), index)
    torch.testing.assert_close(plain.student, setting.student(z, condition, 1.5))
    torch.testing.assert_close(plain.teacher, setting.sampler(z, condition))


def test_without_steps_the_teacher_does_nothing():
    done = search(RandomSearch(4), ("heun", 0, 1.0))(Draw(0), torch.arange(8))
    assert torch.equal(done.final, done.found.seen)
    assert done.search + done.handed_over == Evaluations(4, 0)


@pytest.mark.parametrize(
    ("verifier", "words"),
    [
        (lambda x, c: x, r"one score a sample, shape \[16\]; this one gave \(16, 2\)"),
        (lambda x, c: 1.0, r"shape \[16\]; this one gave float"),
        (lambda x, c: x[:, 0] * torch.nan, "the verifier gave NaN"),
    ],
)
def test_scores_that_are_none_are_refused(verifier, words):
    with pytest.raises(ValueError, match=words):
        search(RandomSearch(2), verifier=verifier)(Draw(0), torch.arange(8))


def test_search_helps_the_teacher_too_and_more_candidates_help_more():
    """The student is what distillation aims at: the teacher's own map (at 4 steps)."""
    teacher = mixture()

    class Distilled(torch.nn.Module):
        def forward(self, x, t, condition=None, *, delta, gamma):
            return solve(teacher.velocity, x, condition, steps=4) - x

    scores, unsearched = [], None
    for n in (1, 2, 4, 8, 16, 32):
        student = Distilled()
        student.weight = torch.nn.Parameter(torch.ones(1))
        setting = NoiseSearch(
            FlowMap(student, teacher), towards, RandomSearch(n), TeacherSampler(teacher, "heun", 8)
        )
        done = setting(Draw(0), torch.arange(200))
        scores.append((float(done.found.score.mean()), float(done.score.mean())))
        unsearched = (
            float(setting.unsearched(Draw(0), torch.arange(200)).teacher_score.mean())
            if n == 1
            else unsearched
        )
    seen, final = zip(*scores, strict=True)
    assert all(b > a for a, b in pairwise(seen))
    assert final[0] == unsearched
    assert final[-1] > final[2] > final[0]
