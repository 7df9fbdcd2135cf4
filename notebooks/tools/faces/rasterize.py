"""Faces as SVG shapes to a data set: pictures of 16 x 16 pixels, classes and attributes.

python rasterize.py faces.jsonl faces.npz

All shapes are rectangles and rectilinear paths, so that a pixel is filled where its centre is.
"""

import argparse
import json
import re
from functools import cache
from pathlib import Path

import numpy as np

SIDE = 16
NONE = "none"

Corner = tuple[float, float]


def read_corners(path: str) -> list[list[Corner]]:
    """The closed polygons of an SVG path of M, H, V, L and Z, absolute or relative.

    Raises:
        ValueError: another command.
    """
    tokens = re.findall(r"[A-Za-z]|-?\d*\.?\d+", path)
    polygons: list[list[Corner]] = []
    x = y = 0.0
    command = ""
    while tokens:
        if tokens[0].isalpha():
            command = tokens.pop(0)
        base_x, base_y = (x, y) if command.islower() else (0.0, 0.0)
        match command.upper():
            case "M":
                x, y = base_x + float(tokens.pop(0)), base_y + float(tokens.pop(0))
                polygons.append([])
                command = "l" if command == "m" else "L"  # what further pairs mean
            case "L":
                x, y = base_x + float(tokens.pop(0)), base_y + float(tokens.pop(0))
            case "H":
                x = base_x + float(tokens.pop(0))
            case "V":
                y = base_y + float(tokens.pop(0))
            case "Z":
                x, y = polygons[-1][0]
                continue
            case _:
                raise ValueError(f"expected a path of M, H, V, L and Z, got {path!r}")
        polygons[-1].append((x, y))
    return polygons


def covered(low: float, high: float) -> np.ndarray:
    """Which pixel centres lie from low to high, bool [SIDE]."""
    centres = np.arange(SIDE) + 0.5
    return (low <= centres) & (centres < high)


@cache
def winding_numbers(path: str) -> np.ndarray:
    """How often a path winds around the centre of each pixel, int [SIDE, SIDE].

    Raises:
        ValueError: a line that is neither horizontal nor vertical.
    """
    winding = np.zeros((SIDE, SIDE), dtype=int)
    for corners in read_corners(path):
        for (x, y), (x_next, y_next) in zip(corners, corners[1:] + corners[:1], strict=True):
            if x != x_next and y != y_next:
                raise ValueError(f"expected horizontal and vertical lines, got {path!r}")
            crossed = covered(min(y, y_next), max(y, y_next))
            winding += np.sign(y_next - y).astype(int) * np.outer(crossed, covered(x, SIDE))
    return winding


def find_value(shape: str, name: str) -> str | None:
    """The value of an attribute of an SVG element, None where it has none."""
    found = re.search(rf'\s{name}="([^"]*)"', shape)
    return found.group(1) if found else None


def fill_mask(shape: str) -> np.ndarray:
    """Which pixels an SVG element fills, bool [SIDE, SIDE]."""
    if shape.startswith("<rect"):
        x, y, width, height = (
            float(find_value(shape, name) or 0) for name in ("x", "y", "width", "height")
        )
        return np.outer(covered(y, y + height), covered(x, x + width))
    winding = winding_numbers(find_value(shape, "d") or "")
    return winding % 2 == 1 if "evenodd" in shape else winding != 0


def read_colour(code: str) -> np.ndarray:
    """#rgb or #rrggbb as three numbers 0 .. 255."""
    digits = code.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)], dtype=float)


def draw(shapes: list[str]) -> np.ndarray:
    """Shapes over each other, uint8 [SIDE, SIDE, 3]."""
    picture = np.full((SIDE, SIDE, 3), 255.0)
    for shape in shapes:
        fill = find_value(shape, "fill")
        if fill in (None, NONE):
            continue
        opacity = float(find_value(shape, "fill-opacity") or 1)
        mask = fill_mask(shape)
        picture[mask] = (1 - opacity) * picture[mask] + opacity * read_colour(fill)
    return picture.round().astype(np.uint8)


def number_values(values: list[str]) -> tuple[np.ndarray, list[str]]:
    """Values as numbers uint8 [N], and the names of the numbers."""
    names = sorted(set(values))
    return np.array([names.index(value) for value in values], dtype=np.uint8), names


def read_attributes(face: dict[str, dict[str, str]]) -> dict[str, str]:
    """What is drawn: the attributes of a face, without colours of what it does not wear."""
    known = face["attributes"]
    parts = ("accessories", "clothing", "eyes", "glasses", "hair", "hat", "mouth")
    values = {part: known.get(part, NONE) for part in parts}
    for part in parts:
        values[f"{part} colour"] = known[f"{part}Color"] if part in known else NONE
    return values | {"skin": known["skinColor"], "background": known["primaryBackgroundColor"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the data set of faces.")
    parser.add_argument("faces", type=Path, help="lines of JSON that draw_faces.mjs wrote")
    parser.add_argument("output", type=Path, help="npz file to write")
    options = parser.parse_args()
    faces = [json.loads(line) for line in options.faces.read_text().splitlines()]
    attributes = [read_attributes(face) for face in faces]
    numbers, names = {}, {}
    for attribute in attributes[0]:
        numbers[attribute], names[attribute] = number_values(
            [each[attribute] for each in attributes]
        )
    np.savez_compressed(
        options.output,
        pictures=np.stack([draw(face["shapes"]) for face in faces]),
        labels=np.array([face["label"] for face in faces], dtype=np.uint8),
        attributes=np.stack(list(numbers.values()), axis=1),
        names=np.array(json.dumps(names)),
    )
    print(
        f"{options.output}: {len(faces)} faces; "
        + ", ".join(f"{k} {len(v)}" for k, v in names.items())
    )


if __name__ == "__main__":
    main()
