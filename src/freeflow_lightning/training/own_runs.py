"""Configs that this user has trained with on this machine: their checkpoints import what the config
did.
"""

import hashlib
import importlib.machinery
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freeflow_lightning.teachers.reading.trust import class_paths, is_known
from freeflow_lightning.training.cache_folder import cache_folder

log = logging.getLogger(__name__)


def remember_config(config: Mapping[str, Any]) -> None:
    """Note in the cache that the user has trained with a config, where it names classes of the
    user's own.

    A checkpoint cannot be trusted to say that itself; a note in the user's cache can.
    """
    note = note_of(config)
    if note is None:
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): reopening checkpoints of this run will take --trust",
            note,
            error,
        )


def is_remembered(config: Mapping[str, Any]) -> bool:
    """Return whether the user has trained with exactly this config, and with classes in the same
    files.
    """
    note = note_of(config)
    return note is not None and note.is_file()


def note_of(config: Mapping[str, Any]) -> Path | None:
    """Return the note's place: a digest of the config and of where its classes are; None for a
    config that needs no note.
    """
    others = [path for path in class_paths(config) if not is_known(path)]
    files = {path: module_file(path) for path in others}
    if not files or None in files.values():
        return None
    facts = json.dumps([config, files], sort_keys=True, default=str)
    return cache_folder() / "own_runs" / hashlib.sha256(facts.encode()).hexdigest()[:32]


def module_file(path: str) -> str | None:
    """Return the file that a class path would be imported from; nothing is imported.

    >>> os.path.basename(module_file("json.decoder.JSONDecoder"))
    'decoder.py'
    """
    places: Any = None
    found = None
    for name in path.split("."):
        spec = importlib.machinery.PathFinder.find_spec(name, places)
        if spec is None:
            break
        found, places = spec.origin, spec.submodule_search_locations
        if places is None:
            break
    return os.path.abspath(found) if found else None
