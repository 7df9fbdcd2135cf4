import logging

import pytest
import torch

from freeflow_lightning.flow import solve
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from freeflow_lightning.reference import Sampler, cache_folder, fingerprint, load_reference, pictures, read_cache, write_cache
from freeflow_lightning.teachers import VelocityTeacher
from tiny import learned_teacher, mixture

CPU = torch.device("cpu")


class Counted:
    """A teacher and the number of its calls."""

    def __init__(self, teacher):
        self.teacher, self.calls = teacher, 0
        teacher.register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1


def load(teacher, metric=None, **changes):
    arguments = {"sampler": Sampler("heun", 4, 1.0), "count": 50, "floor_count": 20, "seed": 1} | changes
    metric = FrechetDistance(FlatFeatures(2)) if metric is None else metric
    return load_reference(metric, teacher, **arguments), metric


def test_the_sampler_is_the_solver_with_guidance():
    teacher = mixture()
    z, y = teacher.draw_indexed(torch.arange(5), seed=0, stream="test")
    assert torch.equal(Sampler("euler", 3)(teacher, z, y), solve(teacher, z, y, steps=3, method="euler"))
    null = teacher.null_condition(y)

    def guided(x, t, c):
        return 3 * teacher(x, t, c) - 2 * teacher(x, t, null)

    torch.testing.assert_close(Sampler("heun", 5, 3.0)(teacher, z, y), solve(guided, z, y, steps=5))
    path = Sampler("heun", 5)(teacher, z, y, trajectory=True)
    assert path.shape == (6, 5, 2)
    assert torch.equal(path[0], z)


def test_the_floor_and_the_reference_are_those_of_their_streams():
    teacher = mixture()
    floor, metric = load(teacher)
    byhand = FrechetDistance(FlatFeatures(2))
    for stream, n, real in (("reference", 50, True), ("floor", 20, False)):
        z, y = teacher.draw_indexed(torch.arange(n), seed=1, stream=stream)
        byhand.update(solve(teacher, z, y, steps=4), real=real)
    assert floor == pytest.approx(float(byhand.compute()), rel=1e-9)
    assert floor > 0
    torch.testing.assert_close(metric.real_features_cov_sum, byhand.real_features_cov_sum)
    assert int(metric.real_features_num_samples) == 50
    assert int(metric.fake_features_num_samples) == 0


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_the_batch_size_does_not_matter(batch_size, tmp_path):
    expected, metric = load(mixture())
    floor, other = load(mixture(), batch_size=batch_size, folder=tmp_path / str(batch_size))
    assert floor == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(other.real_features_sum, metric.real_features_sum)


def test_the_cache_spares_the_teacher():
    first = Counted(mixture())
    floor, metric = load(first.teacher)
    assert first.calls > 10
    assert len(list(cache_folder().glob("*.safetensors"))) == 1
    second = Counted(mixture())
    again, other = load(second.teacher)
    assert second.calls == 1  # the fingerprint
    assert again == floor
    assert torch.equal(other.real_features_cov_sum, metric.real_features_cov_sum)
    assert list(cache_folder().glob("*.tmp")) == []


@pytest.mark.parametrize("damage", [b"", b"half a file", None])
def test_a_damaged_cache_is_drawn_again_and_said(damage, caplog):
    floor, _ = load(mixture())
    (path,) = cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    counted = Counted(mixture())
    with caplog.at_level(logging.WARNING):
        again, _ = load(counted.teacher)
    assert again == floor
    assert counted.calls > 10
    assert "is damaged" in caplog.text
    assert read_cache(path)[1] == floor


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"count": 51},
        {"floor_count": 21},
        {"sampler": Sampler("heun", 5, 1.0)},
        {"sampler": Sampler("euler", 4, 1.0)},
        {"sampler": Sampler("heun", 4, 1.5)},
        {"metric": "other"},
    ],
)
def test_whatever_changes_the_reference_changes_its_key(change):
    load(mixture())
    change = {"metric": FrechetDistance(OtherFeatures(2))} if "metric" in change else change
    load(mixture(), **change)
    assert len(list(cache_folder().iterdir())) == 2


class OtherFeatures(FlatFeatures):
    def __init__(self, n):
        super().__init__(n)
        self.register_buffer("shift", torch.ones(1))


def test_the_fingerprint_knows_weights_and_settings_that_are_no_weights():
    assert fingerprint(learned_teacher(), CPU) == fingerprint(learned_teacher(), CPU)
    other = learned_teacher()
    with torch.no_grad():
        other.function.out.bias[0] += 1e-6
    prints = {fingerprint(t, CPU) for t in (learned_teacher(), other, learned_teacher(2), mixture())}
    assert len(prints) == 4
    two = (VelocityTeacher(lambda x, t, c, k=k: k * x, (2,)) for k in (1.0, 1.1))
    assert len({fingerprint(t, CPU) for t in two}) == 2


def test_a_reader_never_sees_half_a_cache(tmp_path):
    write_cache(tmp_path / "new" / "a.safetensors", {"x": torch.ones(2)}, 0.1, {"schema": 1})
    state, floor = read_cache(tmp_path / "new" / "a.safetensors")
    assert floor == 0.1
    assert torch.equal(state["x"], torch.ones(2))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.safetensors"]
    assert read_cache(tmp_path / "none") is None


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 4, 4)])
def test_samples_that_are_not_finite_are_no_pictures(shape):
    x = torch.zeros(shape)
    teacher = VelocityTeacher(lambda x, t, c: x, shape[1:])
    assert pictures(teacher, x).dtype == (torch.uint8 if len(shape) == 4 else torch.float32)
    x[0] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        pictures(teacher, x)
