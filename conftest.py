"""Every test and doctest has a folder of its own to run and to cache in, and all of them together
leave nothing in the checkout.
"""

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent
AT_START = pytest.StashKey[set[str]]()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[AT_START] = names_in_checkout()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose tests have left files; one process looks for all."""
    if hasattr(session.config, "workerinput"):
        return
    if left := names_in_checkout() - session.config.stash[AT_START]:
        print(f"\nthe tests have left files in the checkout: {sorted(left)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def names_in_checkout() -> set[str]:
    """What stands beside this file, without caches and other hidden names."""
    return {name for name in os.listdir(CHECKOUT) if not name.startswith(".")}
