"""What a step is said to cost is what a step on real tensors costs."""

import warnings

import pytest
import torch

from freeflow_lightning import FreeFlowModule, TransitionModule
from freeflow_lightning.nets import SiT
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction
from freeflow_lightning.profiling import step_memory
from freeflow_lightning.profiling.live_memory import KeptForBackward, LiveMemory, tensors_of
from freeflow_lightning.profiling.no_data import no_data, without_data
from freeflow_lightning.profiling.step_memory import PRECISIONS, Traced, estimate, sit_teacher
from freeflow_lightning.teachers import SiTTeacher, SiTVelocity, VelocityTeacher

BATCH = 16


def teacher():
    """Small, but with activations that outweigh its weights."""
    torch.manual_seed(0)
    net = SiT(16, 2, 4, hidden_size=48, depth=3, num_heads=4, num_classes=7)
    return VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes)


def module(**settings):
    return FreeFlowModule(teacher(), **settings)


def draw(m):
    return m.draw(BATCH, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "prediction": DiscretePrediction(4, "euler"),
            "guidance_range": (1.0, 1.0),
            "evaluation_guidance": 1.0,
        },
        {"correction_fraction": 0.0},
    ],
    ids=["both", "unguided", "prediction alone"],
)
def test_activations_are_those_that_a_real_step_keeps(precision, settings):
    m, plugin = module(**settings), PRECISIONS[precision]()
    plugin.convert_module(m)
    kept = KeptForBackward(tensors_of(m.teacher, *m.networks().values()))
    with plugin.forward_context(), kept():
        loss = m.loss(draw(m)).loss
    measured = kept.release()
    loss.backward()
    assert measured > 2**20
    assert (
        estimate(lambda: module(**settings), batch_size=BATCH, precision=precision).activations
        == measured
    )


def allocated(run):
    """Bytes that the CPU allocator had handed out since the start, after each of its events: an account of its own."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = run()
    events = sorted(
        (e.start_ns(), e.nbytes())
        for e in profile.profiler.kineto_results.events()
        if e.name() == "[memory]"
    )
    total, course = 0, [0]
    for _, size in events:
        total += size
        course.append(total)
    return result, course


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_peaks_are_those_of_the_allocator(precision):
    m, plugin = module(), PRECISIONS[precision]()
    m.loss(draw(m)).loss.backward()  # libraries have allocated what they keep

    def forward():
        with plugin.forward_context():
            return m.loss(draw(m)).loss

    m.zero_grad()
    loss, ahead = allocated(forward)
    _, back = allocated(loss.backward)
    costs = estimate(module, batch_size=BATCH, precision=precision)
    standing = sum(costs.weights.values()) + costs.optimizer
    assert max(ahead) == pytest.approx(
        costs.peaks["forward"] - standing - costs.gradients, rel=0.03
    )
    assert ahead[-1] + max(back) == pytest.approx(costs.peaks["backward"] - standing, rel=0.03)


def test_weights_gradients_and_optimizer_are_those_of_a_real_run():
    m = module()
    optimizer = m.configure_optimizers()
    m.loss(draw(m)).loss.backward()
    optimizer.step()
    moments = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    costs = estimate(module, batch_size=BATCH, averages=2)
    assert costs.optimizer == sum(v.nbytes for v in moments)
    assert costs.gradients == sum(p.grad.nbytes for p in m.parameters() if p.grad is not None)
    assert costs.weights["student"] == sum(p.nbytes for p in m.student.parameters())
    assert costs.weights["average"] == 2 * costs.weights["student"]
    assert costs.parameters == {
        "teacher": sum(p.numel() for p in m.teacher.parameters()),
        "student": sum(p.numel() for p in m.student.parameters()),
        "auxiliary": sum(p.numel() for p in m.auxiliary.parameters()),
    }


def test_bfloat16_weights_take_half():
    full, half = (
        estimate(module, batch_size=BATCH, precision=precision) for precision in ("32", "bf16-true")
    )
    assert half.optimizer == 3 * full.optimizer / 2  # Adam's own weights and two moments in float32
    assert 2 * half.gradients == full.gradients
    assert half.weights["average"] == full.weights["average"]
    assert all(
        2 * half.weights[name] == size for name, size in full.weights.items() if name != "average"
    )


COUNTS = {  # of the teacher, without learned variance: the public files
    ("S/2", 256): 32_957_200,
    ("B/2", 256): 130_500_112,
    ("L/2", 256): 458_086_416,
    ("XL/2", 256): 675_111_184,
    ("XL/2", 512): 675_995_920,
}


@pytest.mark.parametrize("size", COUNTS, ids=str)
def test_published_sizes_have_their_parameters(size):
    with no_data():
        m = FreeFlowModule(sit_teacher(*size))
    count = {
        name: sum(p.numel() for p in net.parameters())
        for name, net in {"teacher": m.teacher, **m.networks()}.items()
    }
    width = m.teacher.function.net.architecture["hidden_size"]
    scalar = 256 * width + width + width * width + width
    assert count == {
        "teacher": COUNTS[size],
        "student": COUNTS[size] + 2 * scalar,
        "auxiliary": COUNTS[size] + scalar,
    }
    if size == ("XL/2", 256):
        assert count["student"] == 678_359_824  # the paper's 678M


@pytest.mark.parametrize(("image_size", "published"), [(256, 119), (512, 525)])
def test_operations_of_xl_2_are_the_papers(image_size, published):
    """Table 6 counts a multiply-add once."""
    with no_data(), LiveMemory() as memory, torch.no_grad():
        made = sit_teacher("XL/2", image_size)
        made.velocity(
            torch.randn(1, *made.sample_shape), torch.ones(1), torch.zeros(1, dtype=torch.long)
        )
    assert memory.flops / 2e9 == pytest.approx(published, abs=1)


def test_operations_follow_from_the_evaluations():
    """A forward pass costs one, a backward pass two; the gradient flows through 1 + 0.25 evaluations per sample."""
    with no_data(), LiveMemory() as memory, torch.no_grad():
        t = teacher()
        t.velocity(
            torch.randn(BATCH, *t.sample_shape),
            torch.ones(BATCH),
            torch.zeros(BATCH, dtype=torch.long),
        )
    costs = estimate(module, batch_size=BATCH)
    assert costs.evaluations == {"teacher": 3.5, "student": 1.75, "auxiliary": 0.25}
    assert costs.flops == pytest.approx(memory.flops / BATCH * (5.5 + 2 * 1.25), rel=0.03)


def test_a_recipe_of_two_stages_is_traced_in_both_and_its_evaluations_are_of_the_last(monkeypatch):
    made = TransitionModule(teacher(), auxiliary_updates=4)
    costs = estimate(lambda: TransitionModule(teacher(), auxiliary_updates=4), batch_size=4)
    made.matches = False
    assert costs.evaluations == made.evaluations_per_sample()

    def trace(module, *_):
        kinds = {module.auxiliary: Traced(9, 1, 1, 10), module.student: Traced(1, 8, 1, 20)}
        return kinds.get(module.resting, Traced(1, 1, 7, 60))

    monkeypatch.setattr(step_memory, "_trace", trace)
    again = estimate(lambda: TransitionModule(teacher(), auxiliary_updates=4), batch_size=1)
    assert again.activations == 9
    standing = again.peaks["forward"] - again.gradients - 8
    assert again.peaks["backward"] == standing + 7
    assert again.flops == (20 + 20 + 20 + 60) / 4  # of a turn of the second stage


def test_a_stand_in_has_no_data_and_the_same_costs():
    given = SiTTeacher("embedded:digits")
    ghost = without_data(given)
    assert type(next(ghost.parameters())).__name__ == "FakeTensor"
    assert type(next(given.parameters())) is torch.nn.Parameter
    assert given.velocity(torch.ones(1, 1, 8, 8), torch.ones(1), torch.tensor([3])).isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimate(lambda: FreeFlowModule(ghost), batch_size=8) == estimate(
            lambda: FreeFlowModule(given), batch_size=8
        )


def looks(x, t, condition):
    return -x if float(x.sum()) > 0 else -2 * x


def test_a_teacher_that_looks_at_values_is_said():
    with pytest.raises(
        ValueError, match=r"cannot be traced without data \(DataDependent.*do not look at values"
    ):
        estimate(
            lambda: FreeFlowModule(VelocityTeacher(looks, (4, 16, 16), 7), teacher().function),
            batch_size=4,
        )


def test_the_exact_derivative_is_traced_too():
    costs = estimate(lambda: module(prediction=ContinuousPrediction()), batch_size=4)
    assert costs.evaluations["student"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size of at least 1"),
        ({"batch_size": 4, "averages": -1}, "got 4 and -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate(module, **arguments)
