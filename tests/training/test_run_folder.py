"""Each run has a folder of its own, and a checkpoint knows its run."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from freeflow_lightning.training.run_folder import (
    claim_version,
    newest,
    next_version,
    version_of,
    versions,
)


def test_versions_are_numbers_not_names(tmp_path):
    assert versions(tmp_path / "none") == []
    assert next_version(tmp_path) == 0
    for n in (2, 10, 9):
        (tmp_path / f"version_{n}").mkdir()
    (tmp_path / "version_old").mkdir()
    assert versions(tmp_path) == [2, 9, 10]
    assert next_version(tmp_path) == 11


def test_the_newest_run_is_one_with_checkpoints(tmp_path):
    for n in (2, 10):
        (tmp_path / f"version_{n}/checkpoints").mkdir(parents=True)
    (tmp_path / "version_11").mkdir()  # of a validation
    assert newest(tmp_path) == newest(tmp_path / "version_10") == tmp_path / "version_10"
    with pytest.raises(
        FileNotFoundError, match=r"no run with checkpoints at .*version_11: expected"
    ):
        newest(tmp_path / "version_11")


def test_each_of_many_that_claim_at_once_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "run/version_4").mkdir(parents=True)
    together = threading.Barrier(8)

    def claim(_):
        together.wait()
        return claim_version(tmp_path / "run")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == list(range(5, 13))
    assert versions(tmp_path / "run") == list(range(4, 13))


def test_a_checkpoint_knows_its_run(tmp_path):
    assert version_of(tmp_path / "version_3/checkpoints/last.ckpt", tmp_path) == 3
    assert version_of(tmp_path / "other/version_3/checkpoints/last.ckpt", tmp_path) is None
    assert version_of(tmp_path / "last.ckpt", tmp_path) is None
    assert version_of(tmp_path / "version_3/checkpoints/best-fid/student=3.ckpt", tmp_path) == 3
