"""The configs that come with the package, by name: `digits` is configs/digits.yaml."""

import difflib
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
PLACES = (PACKAGE / "configs", PACKAGE.parents[1] / "configs")
"""Where they are: in an installed package, and in a checkout."""


def configs_folder() -> Path:
    """Return the folder that holds the configs.

    Raises:
        FileNotFoundError: an installation without them.
    """
    for place in PLACES:
        if (place / "digits.yaml").is_file():
            return place
    raise FileNotFoundError("this installation has no configs: install freeflow-lightning again")


def list_configs() -> dict[str, Path]:
    """Return the path of each config by its name, sorted: those of subfolders are named with them.

    >>> list_configs()["digits"].name, list_configs()["search/prediction_alone"].name
    ('digits.yaml', 'prediction_alone.yaml')
    """
    folder = configs_folder()
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def summary_of(config: Path) -> str:
    """Return the first line of a config's opening comment."""
    line = config.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def find_built_in(name: str) -> Path:
    """Return the path of a config of this package.

    Args:
        name: as `freeflow configs` lists it, without its subfolder if one alone is called so;
            configs/NAME.yaml is understood too.

    Raises:
        FileNotFoundError: no such config; the message has the names that are near.
    """
    known = list_configs()
    short = name.removeprefix("configs/").removesuffix(".yaml")
    matches = [path for full, path in known.items() if short in (full, full.rpartition("/")[2])]
    if short in known:
        return known[short]
    if len(matches) == 1:
        return matches[0]
    near = difflib.get_close_matches(short, known, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "give a YAML file of `freeflow fit`"
    raise FileNotFoundError(
        f"no config at {name or repr(name)}, and none of that name in the package: {hint} "
        "(`freeflow configs` lists those of the package)"
    )


def find_config(given: str) -> Path:
    """Return the file that --config means: the one at this path, or the package's of this name.

    A file in the current folder that is called as one of the package's is taken, and said.

    Raises:
        FileNotFoundError: there is neither.
    """
    here = next((path for path in (Path(given), Path(f"{given}.yaml")) if path.is_file()), None)
    if here is None:
        return find_built_in(given)
    if here.parent == Path() and here.stem in list_configs():
        print(f"taking ./{here}, not the package's config {here.stem}", file=sys.stderr)
    return here


def name_config_files(words: list[str]) -> list[str]:
    """Return the words of a command line with the path of each config that --config names.

    A config that is written out, rather than named, stays as it is.

    >>> named = name_config_files(["--config", "digits", "--config={trainer: {max_steps: 2}}"])
    >>> Path(named[1]).name, named[2]
    ('digits.yaml', '--config={trainer: {max_steps: 2}}')
    """
    named: list[str] = []
    for word in words:
        option, joined, value = word.partition("=")
        if option == "--config" and joined:
            named.append(f"--config={_path_of(value)}")
        elif named and named[-1] == "--config":
            named.append(_path_of(word))
        else:
            named.append(word)
    return named


def _path_of(value: str) -> str:
    is_written_out = any(mark in value for mark in (": ", "{", "\n", "://"))
    return value if is_written_out else str(find_config(value))
