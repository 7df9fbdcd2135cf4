"""Every recipe beside FreeFlow on two processes (DDP over gloo): one process with both their draws."""

import pytest
import torch

import forks
from freeflow_lightning.flow import training_generator
from recipes import test_dmd, test_flow_map, test_posterior, test_transition
from tiny import data, learned_teacher, same, trainer

STEPS, SIZE = 4, 8
NAMES = ("map", "dmd", "posterior", "transition")
RATES = {"student_lr": 1e-3, "auxiliary_lr": 1e-3, "check_teacher": False}


def build(name):
    """The recipe of that name, as each process makes it."""
    if name == "map":
        later = test_flow_map.METHODS["corrected at later points"]
        return test_flow_map.build(learned_teacher(), **later, **RATES)
    if name == "posterior":
        return test_posterior.build(learned_teacher(), student_lr=1e-3, check_teacher=False)
    if name == "transition":  # both stages
        return test_transition.build(match_steps=2, auxiliary_updates=2, **RATES)
    return test_dmd.build(learned_teacher(), times=(1.0, 0.5), auxiliary_updates=2, **RATES)


def train_each() -> None:
    torch.set_default_dtype(torch.float64)  # Adam enlarges rounding
    for name in NAMES:
        m = build(name)
        run = trainer(devices=2, strategy="ddp", max_steps=STEPS)
        run.fit(m, data(batch_size=SIZE, length=STEPS))
        torch.save(m.state_dict(), f"{name}_{run.global_rank}.pt")


def step_of_both(m, counter):
    """The loss of one step of two processes, in one."""
    draws = [m.draw(SIZE, training_generator(0, rank, counter)) for rank in range(2)]
    means = []
    m.mean_over_ranks = lambda x: means.append(x) or x
    for draw in draws:
        m.loss(draw)
    if means:
        mean = torch.stack(means).mean(0)
        m.mean_over_ranks = lambda x: mean
    return sum(m.loss(draw).loss for draw in draws) / 2


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_two_processes_are_one_with_both_their_draws(float64):
    forks.run_together(2, train_each)
    for name in NAMES:
        first, second = (torch.load(f"{name}_{rank}.pt") for rank in range(2))
        assert same(first, second), name
        m, start = build(name), build(name).state_dict()
        optimizer = m.configure_optimizers()
        for counter in range(STEPS):
            has_turns = name in ("dmd", "transition")
            m.moves_student = not has_turns or counter % 2 == 1  # there every second step
            m.matches = counter < 2  # of TransitionModule: the first stage
            optimizer.zero_grad()
            step_of_both(m, counter).backward()
            optimizer.step()
        for key, value in m.state_dict().items():
            if key.endswith("qkv.bias"):  # the keys' part has no gradient, and Adam moves rounding
                continue
            moved, gap = (value - start[key]).abs().max(), (first[key] - value).abs().max()
            assert gap <= 1e-5 * moved, f"{name}: {key}"
