"""freeflow configs: the configs that come with the package."""

from functools import partial

from freeflow_lightning.commands.built_in_configs import find_built_in, list_configs, summary_of
from freeflow_lightning.commands.run import run


def configs(name: str | None = None) -> None:
    """List the configs of the package, or print one: `freeflow fit --config NAME` trains it.

    To change one, save it under a name of your own: freeflow configs digits > my_digits.yaml.

    Args:
        name: the config to print; all are listed if not given.
    """
    if name is not None:
        print(find_built_in(name).read_text(encoding="utf-8"), end="")
        return
    known = list_configs()
    width = max(len(one) for one in known)
    for one, path in known.items():
        print(f"{one:<{width}}  {summary_of(path)}")


main = partial(run, configs)
