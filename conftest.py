"""Every test and doctest has a folder of its own to run and to cache in, and leaves nothing in the
checkout.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = names_in_checkout()
    monkeypatch.setenv("FREEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    left = names_in_checkout() - before
    assert not left, f"the test has left files in the checkout: {sorted(left)}"


def names_in_checkout() -> set[str]:
    """What stands beside this file, without caches and other hidden names."""
    return {name for name in os.listdir(CHECKOUT) if not name.startswith(".")}
