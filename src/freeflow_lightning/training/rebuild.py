"""A recipe built again from the config that its checkpoint carries."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.teachers.reading.trust import (
    denied_import,
    find_object,
    guarded,
    trusted,
)
from freeflow_lightning.training.config_files import find_files, places_of
from freeflow_lightning.training.meta_init import materialize
from freeflow_lightning.training.overrides import say_overrides
from freeflow_lightning.training.own_runs import is_remembered
from freeflow_lightning.training.record import (
    is_importable,
    path_of,
    unknown_parts,
    weights_sample,
)
from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint, open_checkpoint
from freeflow_lightning.training.trust_config import check_trust, refusal_of_class


def build_recipe(
    checkpoint: TrainingCheckpoint,
    kind: type,
    given: Mapping[str, Any],
    trust: str | Sequence[str] | None = None,
    *,
    unused: Callable[[type, Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Any:
    """Return the recipe that a checkpoint belongs to, built from the config that it carries; its
    weights are not loaded.

    Args:
        checkpoint: as `open_checkpoint` gives it.
        kind: what it must be of, or exactly its class where that is defined in a script.
        given: arguments that take the place of the config's; those that differ are said.
        trust: class paths outside this package that may be imported.
        unused: the values, by the recipe's class and arguments, of arguments that the caller has no
            use for: they take the place of what the config says.

    Raises:
        ValueError: a config that lacks something, does not fit this version, or names a class that
            may not be imported.
    """
    config = checkpoint.config
    if config is None:
        raise ValueError(
            f"{checkpoint.path} does not say its settings (scalar_scale, guidance_range, "
            "time_module ...), as those that were trained in Python with version 0.1.0: open it "
            f"with {kind.__name__}.load_from_checkpoint(path, teacher=..., and every other "
            "argument that it was trained with)"
        )
    check_trust(checkpoint, config, trust, given)
    arguments = dict(config.get("init_args") or {})
    say_overrides(checkpoint, arguments, given)
    cls = kind if config["class_path"] == path_of(kind) else find_object(config["class_path"])
    objects = dict(given)
    if unused is not None and inspect.isclass(cls):
        objects |= unused(cls, arguments)
    arguments = {name: value for name, value in arguments.items() if name not in objects}
    refuse_unknown(checkpoint, arguments)
    check_options(checkpoint, {"class_path": config["class_path"], "init_args": arguments})
    if not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise ValueError(
            f"{checkpoint.path} is a checkpoint of {config['class_path']}: expected {kind.__name__}"
        )
    return build(checkpoint, cls, arguments, objects, trust)


def build_part(
    checkpoint: TrainingCheckpoint,
    kind: type,
    given: Mapping[str, Any],
    trust: str | Sequence[str] | None = None,
) -> Any:
    """Return an object of a class that takes some of a recipe's arguments, by their names, without
    importing the recipe.

    Args:
        checkpoint: of a recipe of this package, with its config.
        kind: the class.
        given: as in `build_recipe`.
        trust: as in `build_recipe`.

    Raises:
        ValueError: as `build_recipe`, of the arguments that are taken.
    """
    config = checkpoint.config
    assert config is not None
    check_trust(checkpoint, config, trust, given)
    taken = inspect.signature(kind).parameters
    arguments = {name: value for name, value in config["init_args"].items() if name in taken}
    say_overrides(checkpoint, arguments, given)
    arguments = {name: value for name, value in arguments.items() if name not in given}
    refuse_unknown(checkpoint, arguments)
    check_options(checkpoint, arguments)
    return build(checkpoint, kind, arguments, given, trust)


def build(
    checkpoint: TrainingCheckpoint,
    kind: type,
    arguments: Mapping[str, Any],
    objects: Mapping[str, Any],
    trust: str | Sequence[str] | None,
) -> Any:
    """Return an object of a class from arguments of a checkpoint's config, and from objects as they
    are.
    """
    found = find_files(arguments, places_of(checkpoint))
    config = checkpoint.config
    assert config is not None
    others = None if is_remembered(config) else trusted(trust, config)
    made = dict(objects)
    if "teacher" in found:
        made["teacher"] = build_teacher(checkpoint, found.pop("teacher"), others)
    return construct(checkpoint, kind, found, made, others)


def load_recipe(
    kind: type, place: str | Path, trust: str | Sequence[str] | None, given: Mapping[str, Any]
) -> Any:
    """Return a recipe with the weights of a checkpoint, averages included: what
    `Recipe.load_from_checkpoint` does.
    """
    checkpoint = open_checkpoint(place)
    recipe = (
        kind(**given) if checkpoint.config is None else build_recipe(checkpoint, kind, given, trust)
    )
    materialize(recipe, recipe.meta_weights())
    for name in checkpoint.averages:
        recipe.averages[name] = recipe.make_average(name).float().requires_grad_(False).eval()
    misfit = f"the weights of {checkpoint.path} do not fit its config"
    load_weights(recipe, checkpoint.weights(""), misfit)
    return recipe


def construct(
    checkpoint: TrainingCheckpoint,
    kind: type,
    arguments: dict[str, Any],
    objects: Mapping[str, Any],
    others: Sequence[str] | None,
) -> Any:
    """Return an object of a class from plain arguments, which a parser makes what they stand for,
    and from objects as they are.

    Imports known classes and `others` alone; anything where `others` is None.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "it", instantiate=False, skip=set(objects))
    with guarded(others):
        try:
            made = parser.instantiate_classes(parser.parse_object({"it": arguments})).it
        except Exception as error:
            if path := denied_import(error):
                raise refusal_of_class(checkpoint, path) from error
            raise ValueError(f"the config in {checkpoint.path} cannot be built: {error}") from error
    return kind(**made.as_dict() | dict(objects))


def build_teacher(
    checkpoint: TrainingCheckpoint, config: Any, others: Sequence[str] | None
) -> Teacher:
    """Return the teacher of a config, with the weights that the training had (Raises:
    ValueError).
    """

    class Holder:
        def __init__(self, teacher: Teacher) -> None:
            self.teacher = teacher

    teacher: Teacher = construct(checkpoint, Holder, {"teacher": config}, {}, others).teacher
    expected = checkpoint.about.get("teacher_weights")
    if expected is not None and weights_sample(teacher) != expected:
        raise ValueError(
            f"{checkpoint.path} was trained with other weights in its {type(teacher).__name__} "
            "than its description leads to: pass the teacher itself (teacher=...)"
        )
    return teacher


def refuse_unknown(checkpoint: TrainingCheckpoint, arguments: dict[str, Any]) -> None:
    """Refuse arguments that the checkpoint cannot say (Raises: ValueError, with what to pass
    instead).
    """
    for part, path in unknown_parts(arguments).items():
        name = part.partition(".")[0]
        why = (
            "how it was constructed"
            if is_importable(path)
            else "where it is: it is defined in a script or a function"
        )
        option = (
            f" (--{name} CLASS --{name}.ARGUMENT VALUE)" if name in ("teacher", "network") else ""
        )
        raise ValueError(
            f"{checkpoint.path} was trained with a {part} of class {path}, and cannot say {why}. "
            f"Pass {name}=...{option}"
        )


def check_options(checkpoint: TrainingCheckpoint, config: Any) -> None:
    """Refuse classes and options that this version does not have (Raises: ValueError)."""
    if isinstance(config, list | tuple):
        for value in config:
            check_options(checkpoint, value)
    if not isinstance(config, Mapping):
        return
    path = config.get("class_path")
    inside = (config.get("init_args") or {}) if path is not None else config
    if isinstance(path, str) and "." in path and is_importable(path):
        written = f"{checkpoint.path} was written by {checkpoint.version}, and this is {version('freeflow-lightning')}"
        kind = find_object(path)
        if kind is None:
            raise ValueError(
                f"there is no class {path} in this version: {written}; install that version"
            )
        parameters = inspect.signature(kind).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if not takes_any and (unknown := sorted(set(inside) - set(parameters))):
            raise ValueError(
                f"{path} has no option {unknown[0]!r} in this version: {written}; install that "
                f"version"
            )
    for value in inside.values():
        check_options(checkpoint, value)
