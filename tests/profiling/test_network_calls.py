"""What a step evaluates is seen whole, and can be run again on its own, bit for bit."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from freeflow_lightning.flow import (
    CentralDifference,
    ExactJVP,
    ForwardDifference,
    SortedPair,
    TeacherPath,
    training_generator,
)
from freeflow_lightning.objectives import (
    ContinuousPrediction,
    DiscretePrediction,
    Eulerian,
    Lagrangian,
)
from freeflow_lightning.profiling.call_counter import CallCounter
from freeflow_lightning.profiling.network_calls import count_rows, intercept_calls, record_calls
from freeflow_lightning.profiling.step_time import backward, networks_of
from freeflow_lightning.recipes import FlowMapModule
from freeflow_lightning.teachers import SiTVelocity, VelocityTeacher
from nets.random_weights import tiny_sit
from places import ROOT
from recipes import test_dmd, test_transition
from tiny import learned_teacher, module, with_shaken_networks

FORMS = {
    "heun": DiscretePrediction(4, "heun"),
    "rk4": DiscretePrediction(4, "rk4"),
    "jvp": ContinuousPrediction(),
    "central": ContinuousPrediction(CentralDifference(0.1)),
    "forward": ContinuousPrediction(ForwardDifference(0.1)),
}


def shapes(evaluations):
    return [
        (e.network, e.kind, tree_map(lambda x: (x.shape, x.dtype), (e.arguments, e.keywords)))
        for e in evaluations
    ]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_floor_is_the_steps_own_evaluations(form, autocast):
    m = module(learned_teacher(), prediction=FORMS[form])
    outputs = []

    def keep(name, net, call, arguments, keywords):
        outputs.append(call(*arguments, **keywords))
        return outputs[-1]

    nets = networks_of(m)
    p, c = m.draw(16, training_generator(0, 0, 0))
    with torch.autocast("cpu", enabled=autocast):
        with record_calls(nets) as made:
            m.loss((p, c))
        with intercept_calls(nets, keep):
            m.loss((p, c))
        with record_calls(nets) as floor:
            again = [e.again() for e in made]
    assert shapes(floor) == shapes(made)
    assert count_rows(floor) == count_rows(made)
    assert [e.autocast for e in floor] == [e.autocast for e in made]
    for x, evaluation, theirs in zip(again, made, outputs, strict=True):
        assert x.requires_grad == (evaluation.kind == "backward")
        assert torch.equal(
            x.detach(), torch.autograd.forward_ad.unpack_dual(theirs).primal.detach()
        )


def test_rows_by_network_and_kind():
    m = module(learned_teacher(), skip_idle_rows=False)
    with record_calls(networks_of(m)) as made:
        m.loss(m.draw(16, training_generator(0, 0, 0)))
    assert count_rows(made) == {
        "student": {"backward": 16, "forward": 12},
        "teacher": {"forward": 2 * (12 + 12 + 4)},
        "auxiliary": {"backward": 4},
    }


def test_a_derivative_is_told_from_a_forward_pass():
    m = module(learned_teacher(), prediction=ContinuousPrediction(), skip_idle_rows=False)
    with record_calls(networks_of(m)) as made:
        m.loss(m.draw(16, training_generator(0, 0, 0)))
    assert count_rows(made)["student"] == {"backward": 16, "derivative": 12}


def test_a_derivative_on_the_graph_is_run_again_with_its_backward_pass():
    """Of TVM, through attention: the gradients of F + dF/ds are those of the step's own F and dF/ds."""
    net = tiny_sit()
    teacher = VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes)
    settings = {"states": TeacherPath(1, "euler"), "times": SortedPair()}
    m = with_shaken_networks(
        FlowMapModule(teacher, None, Lagrangian(full_gradient=True), **settings)
    )
    with record_calls(networks_of(m)) as made:
        m.loss(m.draw(4, training_generator(0, 0, 0)))
    assert count_rows(made)["student"] == {"derivative and backward": 4}
    (call,) = [each for each in made if each.network == "student"]
    weights = [p for p in m.student.parameters() if p.requires_grad]
    got = torch.autograd.grad(call.again().sum(), weights, allow_unused=True)
    x, t, condition = call.arguments
    F = lambda x, t, delta: m.student(x, t, condition, **call.keywords | {"delta": delta})
    output, slope = ExactJVP().attached(F, (x, t, call.keywords["delta"]))
    wanted = torch.autograd.grad((output + slope).sum(), weights, allow_unused=True)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("moves_student", [False, True])
def test_a_step_of_dmd_evaluates_what_the_recipe_says_and_runs_again(moves_student):
    """Its teacher is asked with gradients on, and has none to give."""
    m = test_dmd.build(learned_teacher(), times=(1.0, 0.5), auxiliary_updates=1)
    m.skip_idle_rows, m.moves_student = False, moves_student
    with record_calls(networks_of(m)) as made:
        m.loss(m.draw(8, training_generator(0, 0, 0)))
    rows = count_rows(made)
    assert rows["auxiliary"] == {"backward": 8}
    assert rows["student"] == ({"forward": 8, "backward": 8} if moves_student else {"forward": 16})
    assert rows.get("teacher", {}) == ({"forward": 16} if moves_student else {})
    if moves_student:
        said = {name: sum(kinds.values()) / 8 for name, kinds in rows.items()}
        assert said == m.evaluations_per_sample()
    backward([call.again() for call in made if call.kind == "backward"])


class Guided(nn.Module):
    """Calls its parts itself, and one of them through itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.a(x) + self.b(x)


def test_parts_that_are_called_by_themselves_count_and_inner_calls_do_not():
    net, x = Guided(), torch.ones(3, 2)
    with record_calls({"net": net}) as made:
        net(x)
        net.b(x[:1])
    assert [(e.module, e.rows) for e in made] == [(net, 3), (net.b, 1)]
    net(x)
    assert len(made) == 2  # nothing is seen afterwards
    assert net._compiled_call_impl is None


def test_what_is_compiled_stays_compiled():
    net, x, calls = nn.Linear(2, 2), torch.ones(3, 2), []

    def backend(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    net.compile(backend=backend)
    with torch.no_grad():
        before = net(x)
        with record_calls({"net": net}) as made:
            assert torch.equal(net(x), before)
        assert torch.equal(made[0].again(), before)
    assert len(calls) == 1  # compiled once


def test_the_peers_steps_make_the_evaluations_of_the_table():
    path = ROOT / "notebooks" / "tools" / "peer_evaluations.py"
    spec = importlib.util.spec_from_file_location("peer_evaluations", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.peer(tool.meanflow) == {
        "teacher": {"forward": 2},
        "student": {"derivative": 1, "backward": 1},
    }
    assert tool.peer(lambda nets: tool.dmd(nets, 1)) == {
        "student": {"backward": 1},
        "teacher": {"forward": 2},
        "auxiliary": {"forward": 1, "backward": 1},
    }
    assert tool.peer(lambda nets: tool.dmd(nets, 5))["student"] == {"backward": 1, "forward": 4}
    every = tool.freeflow(2, skip_idle_rows=False)
    assert every == {
        "student": {"backward": 1, "forward": 0.75},
        "teacher": {"forward": 3.5},
        "auxiliary": {"backward": 0.25},
    }
    fewer = tool.freeflow(20)
    assert fewer["student"]["forward"] == pytest.approx(
        0.75 * (1 - 0.1 - 0.9 * 0.0258), abs=0.02
    )  # P(delta < 1/8), Table 6
    assert fewer["teacher"]["forward"] == pytest.approx(
        3 + 0.25 * (1 + 0.2257), abs=0.02
    )  # P(r <= 0.4)


@pytest.mark.parametrize("matches", [True, False])
def test_features_and_head_of_a_split_student_count_as_their_blocks(matches):
    """Features are two blocks of three and the head is one, in the count and when run again."""
    objective = Eulerian(CentralDifference(1e-2))
    m = test_transition.build(objective=objective, auxiliary_updates=1)
    m.matches, counter, rows_of_blocks = matches, CallCounter(), []
    for block in m.split.backbone.net.blocks:
        block.register_forward_hook(lambda *call: rows_of_blocks.append(len(call[-1])))
    counter.is_on = True
    with counter.watch(networks_of(m)), record_calls(networks_of(m)) as made:
        m.loss(m.draw(8, training_generator(0, 0, 0)))
    rows = count_rows(made)
    said = {name: sum(kinds.values()) / 8 for name, kinds in rows.items()}
    assert said == pytest.approx(m.evaluations_per_sample())
    assert sum(counter.rows["student"].values()) == pytest.approx(8 * said["student"])
    assert sum(rows_of_blocks) == pytest.approx(3 * 8 * said["student"])
    once = rows_of_blocks.copy()
    for call in made:
        if call.network == "student":
            call.again()
    assert rows_of_blocks == 2 * once
