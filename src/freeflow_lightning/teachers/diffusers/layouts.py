"""How a latent stands in a network's state: as it is, or in tokens of 2 x 2 patches or of one."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """How a latent of a given size stands in a state: the sizes it needs, the state's shape, and
    back to a picture or film.
    """

    axes: str
    shape: Callable[[int, tuple[int, ...]], tuple[int, ...]]
    unpack: Callable[[Tensor, tuple[int, ...]], Tensor]


def image_shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """[C, *size]: pictures (C, H, W) and films (C, F, H, W)."""
    return (channels, *size)


def patches_shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens of 2 x 2 latent elements, [H W / 4, C]."""
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(
            f"expected an even latent_size, as this family works on patches of 2 x 2, got "
            f"{list(size)}"
        )
    return (height * width // 4, channels)


def unpack_patches(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, H W / 4, 4 C] tokens of 2 x 2 patches to [B, C, H, W].

    >>> import torch
    >>> unpack_patches(torch.arange(4.0).view(1, 1, 4), (2, 2))
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    h, w = size[0] // 2, size[1] // 2
    return (
        x.view(len(x), h, w, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, 2 * h, 2 * w)
    )


def voxels_shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """Return one token per latent element, [F H W, C]."""
    frames, height, width = size
    return (frames * height * width, channels)


def unpack_voxels(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, F H W, C] to [B, C, F, H, W]."""
    return x.transpose(1, 2).reshape(len(x), -1, *size)


LAYOUTS = {
    "image": Layout("height and width", image_shape, lambda x, size: x),
    "video": Layout("frames, height and width", image_shape, lambda x, size: x),
    "patches": Layout("height and width", patches_shape, unpack_patches),
    "voxels": Layout("frames, height and width", voxels_shape, unpack_voxels),
}
