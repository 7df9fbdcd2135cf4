"""Pictures in [-1, 1] to the 8-bit images that metrics and files hold, and back."""

import torch
from torch import Tensor


class DivergedSamplesError(ValueError):
    """Samples hold NaN or infinite values: the network that drew them has diverged."""


def to_uint8(images: Tensor) -> Tensor:
    """clamp(127.5 x + 128, 0, 255), rounded down: DiT's and SiT's convention; it recovers every
    8-bit value exactly.

    Args:
        images: pictures in [-1, 1], floating point [B, ...]. Values outside are clamped: that is
            part of the convention.

    Returns:
        uint8 [B, ...].

    Raises:
        ValueError: not floating point.
        DivergedSamplesError: samples with NaN or infinite values (a cast would turn NaN into
            black).

    >>> to_uint8(torch.tensor([[-1.0, 0.0, 1.0]]))
    tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    if not images.is_floating_point():
        raise ValueError(
            f"expected floating-point pictures in [-1, 1], got {images.dtype}: 8-bit images need "
            f"no conversion"
        )
    bad = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
    if bad:
        raise DivergedSamplesError(
            f"{bad} of {len(images)} samples hold NaN or infinite values: the network that made "
            f"them diverged"
        )
    return (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)


def as_rgb(images: Tensor) -> Tensor:
    """Return pictures as networks of colour pictures take them, uint8 [B, 3, H, W]; grey repeated.

    Args:
        images: uint8 [B, 3, H, W], or [B, 1, H, W] of grey.

    Raises:
        ValueError: other pictures.

    >>> as_rgb(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape
    torch.Size([2, 3, 4, 4])
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"expected uint8 images [B, 3 or 1, H, W], got {images.dtype} {tuple(images.shape)}; "
            "see to_uint8"
        )
    return images.expand(-1, 3, -1, -1)


def from_uint8(images: Tensor) -> Tensor:
    """x / 127.5 - 1: 8-bit images to float32 in [-1, 1], any shape.

    >>> from_uint8(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    if images.dtype != torch.uint8:
        raise ValueError(
            f"expected uint8 images, got {images.dtype}: convert pictures in [-1, 1] with to_uint8"
        )
    return images.float() / 127.5 - 1
