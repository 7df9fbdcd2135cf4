"""What every teacher promises. A new teacher joins with one line in TEACHERS."""

import pytest
import torch

from freeflow_lightning.flow import apply, join, solve, take
from freeflow_lightning.nets import MLP
from freeflow_lightning.teachers import (
    DiffusersTeacher,
    GaussianMixtureTeacher,
    PathTeacher,
    Prompts,
    SiTTeacher,
    VelocityTeacher,
    save_sit,
)
from freeflow_lightning.teachers.predictions import usual_size
from freeflow_lightning.teachers.prompt_files import write_prompts
from teachers.mixture import NULL, batch, posterior
from teachers.oracle import EXACT, moments
from teachers.test_sit import velocity as tiny_sit
from teachers.tiny_diffusers import TINY, quiet


def sit(folder, convention):
    save_sit(folder / "teacher.safetensors", tiny_sit(convention))
    return SiTTeacher(folder / "teacher.safetensors")


def mlp(num_classes):
    net = MLP((3,), hidden_size=8, depth=1, num_classes=num_classes)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return VelocityTeacher(net, (3,), num_classes)


def prompted(folder, name):
    """A tiny diffusers pipeline with twelve prompts."""
    with quiet():
        TINY[name].save(folder / "model")
    write_prompts(folder / "e", [TINY[name].condition(12)], TINY[name].condition(1))
    return DiffusersTeacher(folder / "model", Prompts(folder / "e"), latent_size=TINY[name].size)


TEACHERS = {  # name: a function of an empty folder
    "mixture": lambda folder: GaussianMixtureTeacher([[2.0, 0.0], [-2.0, 1.0]], 0.5),
    "mixture, classes": lambda folder: GaussianMixtureTeacher(
        [[2.0], [-2.0], [0.0]], [0.5, 0.2, 1.0], labels=[0, 1, 1]
    ),
    "mixture, image": lambda folder: GaussianMixtureTeacher(
        torch.randn(2, 1, 3, 3), 0.5, labels=[0, 1]
    ),
    "function": lambda folder: VelocityTeacher(lambda x, t, condition: -x * (1 + t[:, None]), (2,)),
    "network": lambda folder: mlp(0),
    "network, classes": lambda folder: mlp(4),
    "SiT": lambda folder: sit(folder, "sit"),
    "SiT, REPA's convention": lambda folder: sit(folder, "repa"),
    "SD3, prompts": lambda folder: prompted(folder, "sd3"),
    "Lumina2, prompts": lambda folder: prompted(folder, "lumina2"),
    "Wan, prompts": lambda folder: prompted(folder, "wan"),
    "SD2, prompts, v": lambda folder: prompted(folder, "sd2 v"),
} | {f"exact, {name}": lambda folder, make=make: make() for name, make in EXACT.items()}


@pytest.fixture(params=EXACT)
def exact(request):
    return EXACT[request.param]().requires_grad_(False)


@pytest.fixture(params=TEACHERS)
def teacher(request, tmp_path):
    torch.manual_seed(0)
    return TEACHERS[request.param](tmp_path).requires_grad_(False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inputs(teacher, n=5):
    g = generator()
    x = torch.randn(n, *teacher.sample_shape, generator=g)
    return x, torch.rand(n, generator=g), teacher.draw_condition(n, g)


def conditioned(teacher):
    """Whether there is something to draw, and a null condition to guide with."""
    return teacher.draw_condition(1, generator()) is not None


def same(a, b):
    """Equal trees of tensors and None."""
    pairs = []
    apply(lambda *pair: pairs.append(torch.equal(*pair)), a, b)
    return all(pairs) and (a is None) == (b is None)


def test_velocity_has_the_shape_and_dtype_of_the_state(teacher):
    x, t, condition = inputs(teacher)
    u = teacher.velocity(x, t, condition)
    assert u.shape == x.shape
    assert u.dtype == x.dtype
    assert torch.equal(teacher(x, t, condition), u)


def test_velocity_is_finite_and_pure(teacher):
    x, _, condition = inputs(teacher)
    for t in (torch.zeros(5), torch.ones(5)):
        u = teacher.velocity(x, t, condition)
        assert u.isfinite().all()
        assert torch.equal(teacher.velocity(x, t, condition), u)


def test_rows_of_a_batch_do_not_meet(teacher):
    x, t, condition = inputs(teacher)
    u = teacher.velocity(x, t, condition)
    for k in range(len(x)):
        row = slice(k, k + 1)
        torch.testing.assert_close(
            teacher.velocity(x[row], t[row], take(condition, row)), u[row], atol=1e-5, rtol=1e-5
        )


def test_the_velocity_depends_on_state_and_time(teacher):
    x, t, condition = inputs(teacher)
    u = teacher.velocity(x, t, condition)
    assert not torch.allclose(teacher.velocity(x + 0.1, t, condition), u, atol=1e-4)
    assert not torch.allclose(teacher.velocity(x, (t + 0.5) % 1, condition), u, atol=1e-4)


def test_conditions_are_a_function_of_the_generator(teacher):
    assert same(teacher.draw_condition(50, generator()), teacher.draw_condition(50, generator()))
    torch.manual_seed(0)
    teacher.draw_condition(50, generator())
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    if conditioned(teacher):
        assert not same(
            teacher.draw_condition(50, generator()), teacher.draw_condition(50, generator(1))
        )


def test_indexed_draws_do_not_depend_on_the_batch(teacher):
    draw = lambda index, seed=0, stream="a": teacher.draw_indexed(
        torch.tensor(index), seed=seed, stream=stream
    )
    (z, condition), (part, part_condition) = draw([4, 7, 9]), draw([7, 9])
    assert z.shape == (3, *teacher.sample_shape)
    assert torch.equal(z[1:], part)
    assert same(take(condition, slice(1, 3)), part_condition)
    for other in (draw([4, 7, 9], seed=1), draw([4, 7, 9], stream="b")):
        assert not torch.equal(other[0], z)
    if conditioned(teacher):
        many = list(range(40))
        assert not same(draw(many)[1], draw(many, seed=1)[1])
        assert not same(draw(many)[1], draw(many, stream="b")[1])


def test_conditions_join(teacher):
    x, t, _ = inputs(teacher)
    parts = [teacher.draw_condition(n, generator(n)) for n in (2, 3)]
    u = teacher.velocity(x, t, join(*parts))
    first = teacher.velocity(x[:2], t[:2], parts[0])
    torch.testing.assert_close(u[:2], first, atol=1e-5, rtol=1e-5)


def test_the_null_condition_is_shaped_as_the_condition_or_refused(teacher):
    x, t, condition = inputs(teacher)
    if not conditioned(teacher):
        with pytest.raises(ValueError, match="no null condition"):
            teacher.null_condition(condition)
        return
    null = teacher.null_condition(condition)
    alike = []
    apply(lambda a, b: alike.append(a.shape == b.shape and a.dtype == b.dtype), null, condition)
    assert alike
    assert all(alike)
    assert teacher.velocity(x, t, null).shape == x.shape


def test_gamma_none_is_the_plain_velocity(teacher):
    x, t, condition = inputs(teacher)
    assert torch.equal(teacher.guided_velocity(condition)(x, t), teacher.velocity(x, t, condition))


def test_gamma_1_is_the_conditional_velocity_and_gamma_2_the_formula(teacher):
    x, t, condition = inputs(teacher)
    if not conditioned(teacher):
        with pytest.raises(ValueError, match="no null condition"):
            teacher.guided_velocity(condition, gamma=torch.ones(5))(x, t)
        return
    u, null = (
        teacher.velocity(x, t, condition),
        teacher.velocity(x, t, teacher.null_condition(condition)),
    )
    one = torch.ones(len(x))
    torch.testing.assert_close(
        teacher.guided_velocity(condition, gamma=one)(x, t), u, atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(
        teacher.guided_velocity(condition, gamma=2 * one)(x, t), 2 * u - null, atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(u, null)


def test_every_class_has_its_condition(teacher):
    if not teacher.num_classes:
        assert teacher.conditions.of_classes(torch.tensor([0])) is None
        return
    x, t, _ = inputs(teacher, teacher.num_classes)
    assert (
        teacher.velocity(x, t, teacher.conditions.of_classes(torch.arange(teacher.num_classes)))
        .isfinite()
        .all()
    )


def test_the_network_starts_as_the_teacher_or_is_refused(teacher):
    x, t, condition = inputs(teacher)
    try:
        network = teacher.network()
    except ValueError as error:
        assert "has no network" in str(error)  # noqa: PT017
        return
    assert torch.equal(network(x, t, condition), teacher.velocity(x, t, condition))
    assert any(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_convention_gives_the_exact_velocity(exact, dtype):
    x, t, label = batch(500)
    t = 0.98 * t + 0.005  # inside the range of every family
    data, noise = posterior(x, 1 - t, t, label)
    u = exact.velocity(x.to(dtype), t.to(dtype), label)
    assert u.dtype == dtype
    error = (u - (data - noise)).abs().amax(1)
    amplified = 1 / torch.minimum(
        t, 1 - t
    )  # float32 rounds the state, and some predictions are divided by t or 1 - t
    assert (error < (1e-5 if dtype == torch.float64 else 1e-5 + 1e-6 * amplified)).all()


@pytest.mark.parametrize("label", [0, 1, NULL])
def test_every_convention_integrates_to_the_right_distribution(exact, label):
    uniform = torch.quasirandom.SobolEngine(2).draw(
        2048, dtype=torch.float64
    )  # evenly spread: little sampling error
    z = torch.special.ndtri(uniform.clamp(1e-3, 1 - 1e-3))
    x = solve(exact, z, torch.full((2048,), label), steps=24)
    mean, covariance = moments(label)
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.03, rtol=0)


def test_the_gradient_is_finite_at_both_ends(exact):
    """The student is asked at t = 1."""
    for t in (torch.zeros(3), torch.ones(3)):
        x = torch.randn(3, 2, generator=generator()).requires_grad_()
        exact.velocity(x, t, torch.tensor([0, 1, NULL])).square().sum().backward()
        assert x.grad.isfinite().all()
        assert (x.grad.abs().sum(1) > 0).all()


def test_scales_are_positive_and_finite(teacher):
    t = torch.linspace(0, 1, 11)
    for scale in (teacher.difference_scale(t), teacher.output_scale(t)):
        assert scale.shape == t.shape
        assert scale.isfinite().all()
        assert (scale > 0).all()


def test_the_output_scale_is_the_derivative_by_the_raw_output(exact):
    """Add 1 to what the network answers; of a score, whose size is 1 / b, that is b of its usual size."""
    t = torch.tensor([0.0, 0.1, 0.4, 0.6, 0.95, 1.0], dtype=torch.float64)
    x, label = torch.ones(6, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    before = exact.velocity(x, t, label)
    next(exact.parameters()).data.fill_(1)
    size = (
        usual_size(exact.function.prediction, exact.function._place(t)[1])
        if isinstance(exact, PathTeacher)
        else 1
    )
    moved = (exact.velocity(x, t, label) - before).abs().amax(1)
    torch.testing.assert_close(moved * size, exact.output_scale(t))
