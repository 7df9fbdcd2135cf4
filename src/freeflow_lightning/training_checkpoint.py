"""A training checkpoint as what it says of itself: read in parts, and built again from the config that it carries."""

import importlib
import inspect
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from freeflow_lightning.checkpoint import (
    META,
    is_remote,
    read_checkpoint_file,
    read_meta,
    read_parts,
    sharded_keys,
    unreadable,
    written_at,
)
from freeflow_lightning.own_runs import is_remembered
from freeflow_lightning.parallel import fill
from freeflow_lightning.record import describe, is_importable, path_of, unknown_parts, weights_sample
from freeflow_lightning.run_folder import versions
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.teachers.trust import class_paths, denied_import, find_object, guarded, has_module, is_known, trusted

ABOUT = "freeflow_lightning"
"""The key of a checkpoint under which this package writes its version and where the training found its files."""

HEADER = struct.Struct("<26x2H")
"""Of a record in a zip file: the lengths of its name and of its extra field."""

Config = dict[str, Any]


class TrainingCheckpoint(NamedTuple):
    """A checkpoint of which the weights are still on the disk.

    Attributes:
        path: of the file or folder.
        content: everything but the weights and the state of the training.
        names: of the weights.
        read: the weights of the given names, each checked against its CRC32.
    """

    path: Path
    content: dict[str, Any]
    names: list[str]
    read: Callable[[list[str]], dict[str, Tensor]]

    @property
    def config(self) -> Config | None:
        """Class path and arguments of the recipe; None where nothing says them."""
        config = self.content.get("hyper_parameters")
        return config if isinstance(config, dict) and isinstance(config.get("class_path"), str) else None

    @property
    def version(self) -> str:
        """The version of this package that wrote it, in words."""
        return f"freeflow-lightning {self.about.get('version', '0.1.0')}"

    @property
    def about(self) -> Config:
        """What this package says of the training beside its config: see `training_facts`."""
        found: Config = self.content.get(ABOUT, {})
        return found

    @property
    def averages(self) -> list[str]:
        """The names of the averages, in the order of the config."""
        return list(dict.fromkeys(name.split(".")[1] for name in self.names if name.startswith("averages.")))

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """The weights below a prefix ("student."), by their names without it; nothing else is read."""
        held = self.read([name for name in self.names if name.startswith(prefix)])
        return {name.removeprefix(prefix): value for name, value in held.items()}


def training_facts(folders: Sequence[str], teacher_weights: str | None) -> Config:
    """What a checkpoint says beside its config: the package's version, the folders of relative paths, the teacher's weights."""
    return {"version": version("freeflow-lightning"), "folders": list(folders), "teacher_weights": teacher_weights}


# Reading


def open_checkpoint(place: str | Path) -> TrainingCheckpoint:
    """The checkpoint of a file, a sharded run's folder, a run's folder or an address; nothing in it is executed.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a damaged checkpoint, one that holds more than tensors and plain values, or no checkpoint.
    """
    path = find_checkpoint(place)
    if not is_remote(place) and path.is_dir():
        return _open_folder(path)
    if is_remote(place) or not zipfile.is_zipfile(path):
        content = read_checkpoint_file(place if is_remote(place) else path)
        weights = _weights_of(content, path)
        return TrainingCheckpoint(path, _settings(content), list(weights), lambda names: {k: weights[k] for k in names})
    return _open_file(path)


def find_checkpoint(place: str | Path) -> Path:
    """The checkpoint itself, of a run's folder its last one.

    Raises:
        FileNotFoundError: a folder that is neither a run nor a checkpoint.
    """
    path = Path(place)
    if is_remote(place) or not path.is_dir() or (path / META).is_file() or (path / ".metadata").is_file():
        return path
    runs = [path / f"version_{n}" for n in reversed(versions(path))] or [path]
    for run in runs:
        if written := sorted((run / "checkpoints").glob("*.ckpt"), key=_age):
            return written[-1]
    raise FileNotFoundError(
        f"no checkpoint in {place}: expected a run that has written one (runs/NAME or runs/NAME/version_N), the folder of a "
        "sharded checkpoint, or an exported student (with freeflow.json)"
    )


def _age(checkpoint: Path) -> tuple[bool, int]:
    """Sorts a run's checkpoints so that its last one comes last."""
    return checkpoint.stem.startswith("last"), written_at(checkpoint)


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    training = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops")
    return {name: value for name, value in content.items() if name not in training}


def _weights_of(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return content["state_dict"]


def _open_file(path: Path) -> TrainingCheckpoint:
    try:
        records = _records(path)
        with FakeTensorMode():  # shapes and places in the file, no data
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise unreadable(path, error) from error
    weights = _weights_of(content, path)

    def read(names: list[str]) -> dict[str, Tensor]:
        storages: dict[int, torch.UntypedStorage] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                return {name: _tensor(weights[name], archive, records, storages) for name in names}
        except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
            raise unreadable(path, error) from error

    return TrainingCheckpoint(path, _settings(content), list(weights), read)


def _records(path: Path) -> dict[int, zipfile.ZipInfo]:
    """The records of a file of torch.save by the place where their bytes begin; those that hold no weights are checked."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        found = {}
        for record in archive.infolist():
            file.seek(record.header_offset)
            found[record.header_offset + HEADER.size + sum(HEADER.unpack(file.read(HEADER.size)))] = record
            if not record.filename.rpartition("/")[0].endswith("/data"):
                archive.read(record)
    return found


def _tensor(
    empty: Tensor, archive: zipfile.ZipFile, records: Mapping[int, zipfile.ZipInfo], storages: dict[int, torch.UntypedStorage]
) -> Tensor:
    """A tensor with its data, which zipfile compares with its CRC32 while it reads."""
    held = empty.untyped_storage()
    if not held.nbytes():
        return torch.empty_strided(empty.shape, empty.stride(), dtype=empty.dtype)
    place = held._checkpoint_offset  # documented in torch's notes on serialization
    assert place is not None  # its storage is not empty
    if place not in storages:
        data = bytearray(archive.read(records[place]))
        storages[place] = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
    flat = torch.empty(0, dtype=empty.dtype)
    return flat.set_(storages[place], empty.storage_offset(), empty.shape, empty.stride())


def _open_folder(path: Path) -> TrainingCheckpoint:
    try:
        content, names = read_meta(path), sorted(sharded_keys(path))
    except Exception as error:
        raise unreadable(path, error) from error

    def read(names: list[str]) -> dict[str, Tensor]:
        if not names:
            return {}
        try:
            found: dict[str, Tensor] = read_parts(path, {f"state_dict.{name}" for name in names})["state_dict"]
        except Exception as error:
            raise unreadable(path, error) from error
        return found

    return TrainingCheckpoint(path, content, names, read)


# Building


def build_recipe(
    checkpoint: TrainingCheckpoint,
    kind: type,
    given: Mapping[str, Any],
    trust: str | Sequence[str] | None = None,
    *,
    unused: Mapping[str, Any] | None = None,
) -> Any:
    """The recipe that a checkpoint belongs to, built from the config that it carries; its weights are not loaded.

    Args:
        checkpoint: as `open_checkpoint` gives it.
        kind: what it must be of, or exactly its class where that is defined in a script.
        given: arguments that take the place of the config's; those that differ are said.
        trust: class paths outside this package that may be imported.
        unused: values for arguments that the caller has no use for, in place of what the config says, if it can say them.

    Raises:
        ValueError: a config that lacks something, does not fit this version, or names a class that may not be imported.
    """
    config = checkpoint.config
    if config is None:
        raise ValueError(
            f"{checkpoint.path} does not say its settings (scalar_scale, guidance_range, time_module ...), as those that were "
            f"trained in Python with version 0.1.0: open it with {kind.__name__}.load_from_checkpoint(path, teacher=..., and "
            "every other argument that it was trained with)"
        )
    check_trust(checkpoint, config, trust, given)
    arguments = dict(config.get("init_args") or {})
    say_overrides(checkpoint, arguments, given)
    objects = dict(given) | dict(unused or {})
    arguments = {name: value for name, value in arguments.items() if name not in objects}
    refuse_unknown(checkpoint, arguments)
    check_options(checkpoint, {"class_path": config["class_path"], "init_args": arguments})
    arguments = find_files(arguments, places_of(checkpoint))
    cls = kind if config["class_path"] == path_of(kind) else find_object(config["class_path"])
    if not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise ValueError(f"{checkpoint.path} is a checkpoint of {config['class_path']}: expected {kind.__name__}")
    others = None if is_remembered(config) else trusted(trust, config)
    if "teacher" in arguments:
        objects["teacher"] = build_teacher(checkpoint, arguments.pop("teacher"), others)
    return construct(checkpoint, cls, arguments, objects, others)


def load_recipe(kind: type, place: str | Path, trust: str | Sequence[str] | None, given: Mapping[str, Any]) -> Any:
    """A recipe with the weights of a checkpoint, averages included: what `Recipe.load_from_checkpoint` does."""
    checkpoint = open_checkpoint(place)
    recipe = kind(**given) if checkpoint.config is None else build_recipe(checkpoint, kind, given, trust)
    fill(recipe, recipe.missing())
    for name in checkpoint.averages:
        recipe.averages[name] = recipe.twin(name).float().requires_grad_(False).eval()
    load_weights(recipe, checkpoint.weights(""), f"the weights of {checkpoint.path}")
    return recipe


def construct(
    checkpoint: TrainingCheckpoint, kind: type, arguments: Config, objects: Mapping[str, Any], others: Sequence[str] | None
) -> Any:
    """An object of a class from plain arguments, which a parser makes what they stand for, and from objects as they are.

    Imports known classes and `others` alone; anything where `others` is None.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "it", instantiate=False, skip=set(objects))
    with guarded(others):
        try:
            made = parser.instantiate_classes(parser.parse_object({"it": arguments})).it
        except Exception as error:
            if path := denied_import(error):
                raise refusal(checkpoint, path) from error
            raise ValueError(f"the config in {checkpoint.path} cannot be built: {error}") from error
    return kind(**made.as_dict() | dict(objects))


def build_teacher(checkpoint: TrainingCheckpoint, config: Any, others: Sequence[str] | None) -> Teacher:
    """The teacher of a config, with the weights that the training had (Raises: ValueError)."""

    class Holder:
        def __init__(self, teacher: Teacher) -> None:
            self.teacher = teacher

    teacher: Teacher = construct(checkpoint, Holder, {"teacher": config}, {}, others).teacher
    expected = checkpoint.about.get("teacher_weights")
    if expected is not None and weights_sample(teacher) != expected:
        raise ValueError(
            f"{checkpoint.path} was trained with other weights in its {type(teacher).__name__} than its description leads to: "
            "pass the teacher itself (teacher=...)"
        )
    return teacher


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load strictly (Raises: ValueError that names what does not fit)."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{what} do not fit its config: {error}") from error


# What may be imported


def check_trust(
    checkpoint: TrainingCheckpoint, config: Config, trust: str | Sequence[str] | None, given: Mapping[str, Any]
) -> None:
    """Import the classes of a config that the user trusts, and refuse others before anything of theirs runs.

    The user trusts what `trust` names, and what a config of theirs has named in a training on this machine.

    Raises:
        ValueError: a class that may not be imported, or cannot; a trusted one that the checkpoint does not name.
    """
    allowed = trusted(trust, config)
    if strangers := sorted(set(allowed) - set(strings(config))):
        named = ", ".join(path for path in class_paths(config) if not is_known(path)) or "none outside this package"
        raise ValueError(f"{checkpoint.path} does not name {strangers[0]}: leave it out of --trust (classes named: {named})")
    mine = is_remembered(config)
    used = {name: value for name, value in (config.get("init_args") or {}).items() if name not in given}
    for path in class_paths({**config, "init_args": used}):
        if "." not in path or is_known(path) or not is_importable(path):
            continue
        if not (mine or path in allowed):
            raise refusal(checkpoint, path)
        import_class(checkpoint, path)


def refusal(checkpoint: TrainingCheckpoint, path: str) -> ValueError:
    """What is said of a class that a checkpoint names and nobody has trusted."""
    away = "" if has_module(path) else f"{path.partition('.')[0]} is not found from here: run in its folder or set PYTHONPATH. "
    return ValueError(
        f"{checkpoint.path} names {path}, which is not of this package, and importing it would run its code. {away}"
        f"If you trust the checkpoint, give --trust {path} (in Python trust={path!r})"
    )


def import_class(checkpoint: TrainingCheckpoint, path: str) -> None:
    """Import a trusted class (Raises: ValueError that says why it cannot be, in one line)."""
    try:
        importlib.import_module(path.rpartition(".")[0])
    except Exception as error:
        raise ValueError(
            f"{checkpoint.path} names {path}, which cannot be imported ({type(error).__name__}: {error}): run in its folder or "
            "set PYTHONPATH, or give the object itself (--teacher, --network)"
        ) from error
    if find_object(path) is None:
        raise ValueError(f"{checkpoint.path} names {path}, and its module has no such class: is it another file of that name?")


def strings(config: Any) -> Iterator[str]:
    """Every string among the values of a config."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from strings(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from strings(value)


# What the config says, and what it cannot


def say_overrides(checkpoint: TrainingCheckpoint, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Warn of every given argument that takes the place of another one in the config."""
    for name, value in given.items():
        recorded, mine = arguments.get(name), describe(value)
        if recorded is None or unknown_parts(recorded) or is_same(recorded, mine):
            continue
        warnings.warn(f"{checkpoint.path}: the given {name} {words(mine)} takes the place of {words(recorded)}", stacklevel=4)


def is_same(recorded: Any, given: Any) -> bool:
    """Whether two descriptions are of the same thing, whatever path its class was imported by."""
    if not isinstance(recorded, Mapping) or not isinstance(given, Mapping) or "class_path" not in recorded:
        return bool(describe(recorded) == given)
    short = str(recorded["class_path"]).rpartition(".")[2], str(given.get("class_path")).rpartition(".")[2]
    return short[0] == short[1] and describe(recorded.get("init_args") or {}) == (given.get("init_args") or {})


def words(description: Any) -> str:
    """A description in one line: the class and its arguments, as far as a line holds them."""
    if not isinstance(description, Mapping) or "class_path" not in description:
        return repr(description)
    arguments = description.get("init_args") or {}
    inside = ", ".join(f"{name}={value!r}" for name, value in arguments.items() if isinstance(value, str | int | float))
    return f"{description['class_path']}({inside})"


def refuse_unknown(checkpoint: TrainingCheckpoint, arguments: Config) -> None:
    """Refuse arguments that the checkpoint cannot say (Raises: ValueError, with what to pass instead)."""
    for part, path in unknown_parts(arguments).items():
        name = part.partition(".")[0]
        why = "how it was constructed" if is_importable(path) else "where it is: it is defined in a script or a function"
        option = f" (--{name} CLASS --{name}.ARGUMENT VALUE)" if name in ("teacher", "network") else ""
        raise ValueError(
            f"{checkpoint.path} was trained with a {part} of class {path}, and cannot say {why}. Pass {name}=...{option}"
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
            raise ValueError(f"there is no class {path} in this version: {written}; install that version")
        parameters = inspect.signature(kind).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if not takes_any and (unknown := sorted(set(inside) - set(parameters))):
            raise ValueError(f"{path} has no option {unknown[0]!r} in this version: {written}; install that version")
    for value in inside.values():
        check_options(checkpoint, value)


# Where its files are


def places_of(checkpoint: TrainingCheckpoint) -> list[Path]:
    """Folders in which a checkpoint's relative paths are looked for, before the current one."""
    beside = checkpoint.path.resolve().parent
    run = [beside.parent] if beside.name == "checkpoints" else []
    recorded = [Path(folder) for folder in checkpoint.about.get("folders", [])]
    return [beside, *run, *recorded]


def find_files(config: Any, places: Sequence[Path]) -> Any:
    """A config whose relative paths lead to where the files are: the first of `places` that has one, or the current folder.

    A value is taken for a path if it looks like one (a suffix or a slash) and something is there.
    """
    if isinstance(config, Mapping):
        return {name: value if name == "class_path" else find_files(value, places) for name, value in config.items()}
    if isinstance(config, list):
        return [find_files(value, places) for value in config]
    if not isinstance(config, str) or not ("/" in config or "." in config) or Path(config).is_absolute():
        return config
    found = next((place / config for place in places if (place / config).exists()), None)
    return config if found is None else str(found)
