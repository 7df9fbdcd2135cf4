"""Digests of files, and of the facts that they depend on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str | None:
    """Return a file's SHA-256, read in pieces; None where there is no file, or a link."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_key(config: Any) -> str:
    """Return a name that changes with anything in a config of plain values.

    >>> config_key({"lr": 1e-3}) == config_key({"lr": 1e-3}) != config_key({"lr": "1e-3"})
    True
    """
    return digest_of(repr(config).encode())[:32]


def key_of(facts: Mapping[str, Any]) -> str:
    """Return a name that changes when anything in the facts does."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
