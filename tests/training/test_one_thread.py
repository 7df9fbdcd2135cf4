"""Small networks train on one thread, unless the user has chosen."""

import pytest
import torch
from lightning.pytorch import Callback

from freeflow_lightning.training import one_thread
from tiny import fit, module


class Threads(Callback):
    """Notes how many threads train; stops at the first batch if asked to."""

    def __init__(self, error=None):
        self.seen, self.error = [], error

    def on_train_batch_start(self, *_):
        self.seen.append(torch.get_num_threads())
        if self.error:
            raise self.error


@pytest.fixture
def three_threads(monkeypatch):
    """A machine of three cores whose user has said nothing."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_small_network_trains_on_one_thread_and_leaves_the_others(three_threads):
    threads = Threads()
    fit(module(), threads, max_steps=1)
    assert threads.seen == [1]
    assert torch.get_num_threads() == 3


def test_a_run_that_fails_leaves_them_too(three_threads):
    with pytest.raises(RuntimeError, match="enough"):
        fit(module(), Threads(RuntimeError("enough")), max_steps=1)
    assert torch.get_num_threads() == 3


def test_a_larger_network_and_a_user_who_has_chosen_are_left_alone(three_threads, monkeypatch):
    large, chosen = Threads(), Threads()
    with monkeypatch.context() as there:
        there.setattr(one_thread, "SMALL", 10)
        fit(module(), large, max_steps=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    fit(module(), chosen, max_steps=1)
    assert (large.seen, chosen.seen) == ([3], [3])
