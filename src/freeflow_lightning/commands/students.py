"""The student that a command was given: of one of our training checkpoints, or of the FreeFlow authors' weights."""

from typing import Literal

from freeflow_lightning.flow_map import FlowMap, is_foreign
from freeflow_lightning.official import OfficialConvention

VAE = "stabilityai/sd-vae-ft-ema"


def load_student(
    checkpoint: str, average: str | None, image_size: Literal[256, 512] | None, vae: str | None, official: OfficialConvention
) -> FlowMap:
    """A FlowMap by what the file is; an option that the file leaves without effect is refused.

    Args:
        checkpoint: a training checkpoint, or official weights.
        average: which average of a training checkpoint.
        image_size: height and width of the pictures of official weights.
        vae: what decodes official latents; a training checkpoint's config names its own.
        official: how to read official weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of neither kind, options that are not for it, or weights of another image size.
    """
    if not is_foreign(checkpoint):
        if image_size or vae or official != OfficialConvention():
            raise ValueError(
                f"{checkpoint} is a training checkpoint, which carries its config: leave --image_size, --vae and --official out"
            )
        return FlowMap.from_checkpoint(checkpoint, average=average)
    if average is not None:
        raise ValueError(f"{checkpoint} is no training checkpoint and holds one student: leave --average out")
    return FlowMap.from_official(checkpoint, official, vae=vae or VAE, input_size=image_size and image_size // 8)
