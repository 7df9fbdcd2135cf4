"""A plain PyTorch U-Net as a teacher. Its own convention: times 0 .. 1000, output noise - data, label 10 for none."""

import torch
from torch import nn

from freeflow_lightning import Teacher


class UNet(nn.Module):
    """Nothing of freeflow_lightning in it."""

    def __init__(self, width: int = 32, classes: int = 10):
        super().__init__()
        self.clock = nn.Sequential(
            nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width)
        )  # embeds the time
        self.label = nn.Embedding(classes + 1, width)
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.leave = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x, time, label):
        e = (self.clock(time[:, None] / 1000) + self.label(label))[..., None, None]
        fine = nn.functional.silu(self.enter(x) + e)
        coarse = nn.functional.silu(self.down(fine) + e)
        return self.leave(torch.cat([fine, self.up(coarse)], dim=1))


class Velocity(nn.Module):
    """The change of variables: t = 1 is noise, and u points to data. The student shares it with the teacher."""

    def __init__(self, unet: UNet):
        super().__init__()
        self.unet = unet

    def forward(self, x, t, condition):
        return -self.unet(x, 1000 * t, condition)


class UNetTeacher(Teacher):
    """Args:
    checkpoint: a state dict of UNet.
    """

    sample_shape = (1, 8, 8)
    num_classes = 10  # labels 0 .. 9 are drawn, 10 means "none" for guidance

    def __init__(self, checkpoint: str):
        super().__init__()
        unet = UNet()
        unet.load_state_dict(torch.load(checkpoint, weights_only=True))
        self.function = Velocity(unet)

    def velocity(self, x, t, condition):
        return self.function(x, t, condition)

    def backbone(self):
        return self.function  # student and auxiliary network start from a copy of it
