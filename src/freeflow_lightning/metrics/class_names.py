"""What the classes of pictures are called, where the shipped feature networks know them."""

from collections.abc import Sequence

from freeflow_lightning.metrics.faces import FacesFeatures
from freeflow_lightning.metrics.features import DigitsFeatures, FeatureNetwork

NAMED: dict[tuple[int, ...], type[FeatureNetwork]] = {
    (1, 8, 8): DigitsFeatures,
    (3, 16, 16): FacesFeatures,
}
"""Who names the classes of pictures of a shape, [C, H, W]."""


def class_names(shape: Sequence[int], num_classes: int) -> tuple[str, ...]:
    """Return the names of that many classes of pictures of a shape; nothing where nobody knows them.

    >>> class_names((3, 16, 16), 8)[:3], class_names((3, 16, 16), 5)
    (('short hair', 'glasses', 'hat'), ())
    """
    kind = NAMED.get(tuple(shape))
    return () if kind is None or kind.num_classes != num_classes else kind.class_names
