import errno
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freeflow_lightning.evaluation.cache import read_cache, write_cache
from freeflow_lightning.evaluation.reference import (
    KEPT,
    draw_table,
    teacher_endpoints,
    teacher_table,
)
from freeflow_lightning.evaluation.resources import Resources
from freeflow_lightning.flow import solve
from freeflow_lightning.metrics import FeatureNetwork, FlatFeatures
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import VelocityTeacher
from freeflow_lightning.training.cache_folder import cache_folder
from tiny import learned_teacher, mixture

CPU = torch.device("cpu")


class Counted:
    """A teacher and the number of its calls."""

    def __init__(self, teacher):
        self.teacher, self.calls = teacher, 0
        teacher.register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1


def load(teacher, network=None, **changes):
    sampler = TeacherSampler(teacher, *changes.pop("sampler", ("heun", 4, 1.0)))
    return teacher_table(
        sampler,
        FlatFeatures(2) if network is None else network,
        **{"count": 50, "seed": 1} | changes,
    )


def test_the_sampler_is_the_solver_with_guidance():
    teacher = mixture()
    z, y = teacher.draw_indexed(torch.arange(5), seed=0, stream="test")
    assert torch.equal(
        TeacherSampler(teacher, "euler", 3)(z, y), solve(teacher, z, y, steps=3, method="euler")
    )
    null = teacher.null_condition(y)

    def guided(x, t, c):
        return 3 * teacher(x, t, c) - 2 * teacher(x, t, null)

    torch.testing.assert_close(
        TeacherSampler(teacher, "heun", 5, 3.0)(z, y), solve(guided, z, y, steps=5)
    )
    path = TeacherSampler(teacher, "heun", 5).path(z, y)
    assert path.shape == (6, 5, 2)
    assert torch.equal(path[0], z)


@pytest.mark.parametrize("stream", ["reference", "floor"])
def test_the_table_is_of_the_samples_of_its_stream(stream):
    teacher = mixture()
    table = load(teacher, stream=stream)
    z, y = teacher.draw_indexed(torch.arange(50), seed=1, stream=stream)
    x = solve(teacher, z, y, steps=4)
    torch.testing.assert_close(table.rows["features"], x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(table.moments["features"].mean, x.double().mean(0))
    torch.testing.assert_close(table.moments["features"].covariance, x.double().T.cov())
    assert torch.equal(table.rows["labels"], y)
    assert table.n == 50


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_the_batch_size_does_not_matter(batch_size, tmp_path):
    expected = load(mixture())
    other = load(mixture(), resources=Resources(batch_size), folder=tmp_path / str(batch_size))
    assert torch.equal(other.rows["features"], expected.rows["features"])
    torch.testing.assert_close(
        other.moments["features"].mean, expected.moments["features"].mean, rtol=1e-12, atol=0
    )


def test_rows_are_kept_up_to_a_limit_and_moments_are_of_all():
    teacher = mixture()
    table = draw_table(
        TeacherSampler(teacher, "euler", 1), FlatFeatures(2), Draw(0), count=30, kept=10
    )
    z, y = teacher.draw_indexed(torch.arange(30), seed=0, stream="samples")
    x = solve(teacher, z, y, steps=1, method="euler")
    assert torch.equal(table.rows["index"], torch.arange(10))
    torch.testing.assert_close(table.moments["features"].mean, x.double().mean(0))
    assert KEPT == 10_000  # ADM's reference files hold as many


def test_the_cache_spares_the_teacher():
    first = Counted(mixture())
    table = load(first.teacher)
    assert first.calls > 8
    assert len(list(cache_folder().glob("*.safetensors"))) == 1
    second = Counted(mixture())
    again = load(second.teacher)
    assert second.calls == 1  # the fingerprint
    assert all(torch.equal(again.tensors()[name], value) for name, value in table.tensors().items())
    assert list(cache_folder().glob("*.tmp")) == []


def test_endpoints_are_the_solution_and_cached():
    counted, which = Counted(mixture()), Draw(3, (1,))
    z, y = which.noise(counted.teacher, torch.arange(9))
    assert y.tolist() == [1] * 9
    sampler = TeacherSampler(counted.teacher, "euler", 3)
    x = teacher_endpoints(sampler, which, torch.arange(9), resources=Resources(4))
    torch.testing.assert_close(
        x, solve(counted.teacher, z, y, steps=3, method="euler"), rtol=1e-6, atol=1e-6
    )
    calls = counted.calls
    assert torch.equal(
        teacher_endpoints(sampler, which, torch.arange(9), resources=Resources(4)), x
    )
    assert counted.calls == calls + 1
    for change in (Draw(4, (1,)), Draw(3, (0,)), Draw(3, (1,), "other")):
        assert not torch.isin(
            teacher_endpoints(sampler, change, torch.arange(9), resources=Resources(4)), x
        ).all()


def flip_a_bit(content):
    middle = len(content) - 40  # among the numbers, where the file's own format sees nothing
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda c: b"", lambda c: b"half a file", lambda c: c[:-100], flip_a_bit]
)
def test_a_damaged_cache_is_drawn_again_and_said(damage, caplog):
    table = load(mixture())
    (path,) = cache_folder().iterdir()
    path.write_bytes(damage(path.read_bytes()))
    counted = Counted(mixture())
    with caplog.at_level(logging.WARNING):
        again = load(counted.teacher)
    assert torch.equal(again.rows["features"], table.rows["features"])
    assert counted.calls > 8
    assert "is damaged" in caplog.text
    assert torch.equal(read_cache(path)["rows/features"], table.rows["features"])


def test_a_cache_of_something_else_is_drawn_again(caplog):
    load(mixture())
    (path,) = cache_folder().iterdir()
    write_cache(path, {"other": torch.ones(2)}, {})
    with caplog.at_level(logging.WARNING):
        assert load(mixture()).n == 50
    assert "it lacks 'n'" in caplog.text


class Shifted(FlatFeatures):
    def __init__(self, n, shift=1.0, version=""):
        super().__init__(n)
        self.register_buffer("shift", torch.tensor([shift]))
        self.version = version


class Decoding(VelocityTeacher):
    """A teacher whose decoder is no weight."""

    scale = 1.0

    def decode(self, x):
        return self.scale * x


def decoding(scale):
    teacher = Decoding(lambda x, t, c: -x, (2,))
    teacher.scale = scale
    return teacher


CHANGES = {
    "seed": {"seed": 2},
    "count": {"count": 51},
    "stream": {"stream": "floor"},
    "classes": {"classes": (0, 1)},
    "steps": {"sampler": ("heun", 5, 1.0)},
    "method": {"sampler": ("euler", 4, 1.0)},
    "guidance": {"sampler": ("heun", 4, 1.5)},
    "network": {"network": Shifted(2)},
    "network's weights": {"network": Shifted(2, 2.0)},
    "network's version": {"network": Shifted(2, 1.0, "2.0")},
    "teacher": {"teacher": learned_teacher()},
    "teacher's weights": {"teacher": learned_teacher(2)},
    "decoder": {"teacher": decoding(2.0)},
    "precision": {},
}


def test_whatever_changes_the_reference_changes_its_key():
    load(mixture())
    load(decoding(1.0))
    for made, (name, change) in enumerate(CHANGES.items(), start=3):
        if name == "precision":
            torch.set_float32_matmul_precision("high")
        try:
            load(
                change.get("teacher", mixture()),
                **{k: v for k, v in change.items() if k != "teacher"},
            )
        finally:
            torch.set_float32_matmul_precision("highest")
        assert len(list(cache_folder().iterdir())) == made, name


def test_the_fingerprint_knows_weights_and_settings_that_are_no_weights():
    assert fingerprint(learned_teacher(), CPU) == fingerprint(learned_teacher(), CPU)
    other = learned_teacher()
    with torch.no_grad():
        other.function.out.bias[0] += 1e-6
    prints = {
        fingerprint(t, CPU) for t in (learned_teacher(), other, learned_teacher(2), mixture())
    }
    assert len(prints) == 4
    two = (VelocityTeacher(lambda x, t, c, k=k: k * x, (2,)) for k in (1.0, 1.1))
    assert len({fingerprint(t, CPU) for t in two}) == 2


def test_a_reader_never_sees_half_a_cache(tmp_path):
    write_cache(tmp_path / "new" / "a.safetensors", {"x": torch.ones(2)}, {"schema": 1})
    content = read_cache(tmp_path / "new" / "a.safetensors")
    assert list(content) == ["x"]
    assert torch.equal(content["x"], torch.ones(2))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.safetensors"]
    assert read_cache(tmp_path / "none") is None


def test_a_cache_that_cannot_be_written_or_read_is_a_warning(caplog, tmp_path, monkeypatch):
    expected = load(mixture())
    monkeypatch.setenv("FREEFLOW_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("mine")
    drawn = load(mixture())
    assert torch.equal(drawn.rows["features"], expected.rows["features"])
    assert "could not be kept in" in caplog.text
    assert "FREEFLOW_CACHE" in caplog.text
    teacher_endpoints(TeacherSampler(mixture(), "euler", 1), Draw(0), torch.arange(2))


def test_a_cache_of_another_user_is_not_called_damaged(caplog, tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write_cache(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {"schema": 1})
    monkeypatch.setattr(Path, "read_bytes", deny)
    assert read_cache(tmp_path / "a.safetensors") is None
    assert "the cached reference cannot be read ([Errno 13] Permission denied: '" in caplog.text
    assert "damaged" not in caplog.text


def test_a_full_disk_costs_the_cache_and_not_what_was_drawn(caplog, monkeypatch):
    def full(path, data):
        Path(path).touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        drawn = load(mixture())
    assert torch.equal(drawn.rows["features"], load(mixture()).rows["features"])
    assert "No space left on device" in caplog.text
    assert (
        len(list(cache_folder().iterdir())) == 1
    )  # the second one: nothing half is left of the first


def test_what_killed_processes_have_left_in_the_cache_is_swept(tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    place = tmp_path / "cache"
    place.mkdir()
    left = f".{'0' * 32}.safetensors.{socket.gethostname()}.{gone.stdout.strip()}.tmp"
    mine = f".thesis.safetensors.{socket.gethostname()}.{gone.stdout.strip()}.tmp"
    for name in (left, mine):
        (place / name).write_text("half")
    write_cache(place / f"{'1' * 32}.safetensors", {"x": torch.ones(2)}, {})
    assert sorted(path.name for path in place.iterdir()) == sorted(
        [mine, f"{'1' * 32}.safetensors"]
    )


def test_a_users_feature_network_needs_no_more_than_its_width_and_forward():
    class Mine(FeatureNetwork):
        num_features = 1

        def forward(self, samples):
            return samples[:, :1] ** 2

    assert load(mixture(), Mine()).moments["features"].mean.shape == (1,)
