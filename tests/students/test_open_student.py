"""The device that a verb takes by its name."""

from types import SimpleNamespace

import pytest
import torch

from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.students.open_student import pick_device


@pytest.mark.parametrize(
    ("name", "third"),
    [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")],
)
def test_each_of_several_processes_takes_an_accelerator_of_its_own(name, third, monkeypatch):
    two = SimpleNamespace(
        is_available=lambda: True,
        current_accelerator=lambda: torch.device("cuda"),
        device_count=lambda: 2,
    )
    monkeypatch.setattr(torch, "accelerator", two)
    assert pick_device(name, Processes(3, 4, 3)) == torch.device(third)
    assert pick_device(name) == torch.device("cuda" if name == "auto" else name)


def test_without_an_accelerator_every_process_is_on_the_cpu():
    assert pick_device("auto", Processes(1, 2, 1)) == torch.device("cpu")
