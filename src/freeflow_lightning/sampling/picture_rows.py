"""Pictures in named rows, the columns of one caption together."""

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from freeflow_lightning.sampling.plots import canvas
from freeflow_lightning.sampling.sheets import GAP, picture_array

CLASS_GAP = 0.35
"""Space between columns of different captions, in widths of a picture."""
NOTE_GAP = 0.24
"""Space below a row of pictures with words under them, likewise."""


def picture_rows(
    groups: Mapping[str, Tensor],
    title: str = "",
    captions: Sequence[str] | None = None,
    notes: Mapping[str, Sequence[str]] = {},
) -> Figure:
    """Rows of pictures, uint8 [N, C, H, W] each, with the row's name at its left.

    Args:
        groups: pictures by the name of their row; a row may be shorter than another.
        title: above all.
        captions: one for each column, above it; neighbours of one caption stand together and share
            it.
        notes: words under the pictures of a row, by its name.
    """
    count = max(len(group) for group in groups.values())
    captions = captions or [""] * count
    lefts = place_columns(captions)
    height = (
        0.3
        + 0.6 * len(groups) * (1 + NOTE_GAP * bool(notes))
        + 0.16 * max(len(caption.splitlines()) for caption in captions)
    )
    figure, axes = canvas(figsize=(1.9 + 0.57 * (lefts[-1] + 1), height))
    axis = axes[0, 0]
    pitch = 1 + (NOTE_GAP if notes else GAP)
    tops = [pitch * line for line in range(len(groups))]
    for top, (name, group) in zip(tops, groups.items(), strict=True):
        shown = list(notes.get(name, ()))[: len(lefts)]
        for left, words in zip(lefts[: len(shown)], shown, strict=True):
            axis.text(left + 0.5, top + 1.02, words, fontsize=6, ha="center", va="top")
        for left, picture in zip(lefts[: len(group)], group, strict=True):  # rows may be shorter
            place = (left, left + 1, top + 1, top)
            axis.imshow(
                picture_array(picture),
                extent=place,
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
    axis.set(xlim=(0, lefts[-1] + 1), ylim=(tops[-1] + (pitch if notes else 1), 0))
    axis.set_yticks([top + 0.5 for top in tops], list(groups), fontsize=9)
    centres = centre_captions(captions, lefts)
    axis.set_xticks([place for place, _ in centres], [text for _, text in centres], fontsize=8)
    axis.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


def caption_classes(labels: Sequence[int] | None, names: Sequence[str] = ()) -> list[str] | None:
    """Return what the class of each picture is called, a part a line; None without classes.

    >>> caption_classes([0, 1], ["hat, glasses"])
    ['hat\\nglasses', 'class 1']
    """
    if labels is None:
        return None
    known = dict(enumerate(names))
    return [known.get(k, f"class {k}").replace(", ", "\n") for k in labels]


def place_columns(captions: Sequence[str]) -> list[float]:
    """Where each column begins, in widths of a picture: a gap parts columns of unlike captions.

    >>> place_columns(["a", "a", "b"])
    [0.0, 1.06, 2.41]
    """
    lefts = [0.0]
    for before, caption in itertools.pairwise(captions):
        gap = GAP if caption == before else CLASS_GAP
        lefts.append(round(lefts[-1] + 1 + gap, 6))
    return lefts


def centre_captions(captions: Sequence[str], lefts: Sequence[float]) -> list[tuple[float, str]]:
    """The centre of neighbouring columns of one caption, and the caption.

    >>> centre_captions(["a", "a", "b"], [0.0, 1.0, 3.0])
    [(1.0, 'a'), (3.5, 'b')]
    """
    placed = zip(captions, lefts, strict=True)
    centres = []
    for caption, group in itertools.groupby(placed, key=lambda column: column[0]):
        columns = [left for _, left in group]
        centres.append(((columns[0] + columns[-1] + 1) / 2, caption))
    return centres
