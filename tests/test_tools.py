"""The scripts of notebooks/tools find all that they import; SiD's loss is a loss of the student alone."""

import importlib.util
import sys

import pytest
import torch

from freeflow_lightning.flow import training_generator
from places import ROOT
from recipes import test_dmd
from tiny import learned_teacher

TOOLS = ROOT / "notebooks" / "tools"


def load(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py")))
def test_a_tool_finds_what_it_imports(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    load(name)


def test_sid_goes_through_teacher_and_auxiliary_and_moves_the_student_alone():
    tool = load("sid_trial")
    tool.check_closed_form()
    m = test_dmd.build(learned_teacher())
    draw = m.draw(16, training_generator(0, 0, 0))
    networks = {name: list(net.parameters()) for name, net in m.networks().items()}
    both = tool.sid(1.0)(m, draw)
    student = torch.autograd.grad(both, networks["student"], retain_graph=True)
    assert all(each.norm() > 0 for each in student[-2:])
    m.moves_student = False
    alone = tool.sid(1.0)(m, draw)
    wanted = torch.autograd.grad(alone, networks["auxiliary"])
    torch.testing.assert_close(torch.autograd.grad(both, networks["auxiliary"]), wanted)
    dmd = torch.autograd.grad(m.loss(draw).loss, networks["auxiliary"])
    torch.testing.assert_close(dmd, wanted)
