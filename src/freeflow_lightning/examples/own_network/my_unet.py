"""A U-Net in plain torch as a teacher: put your own network in the place of UNet.

    freeflow inspect --config my_unet.yaml   is its velocity sound? which sign, which time?
    freeflow fit --config my_unet.yaml       distil it

python my_unet.py trains the toy anew: bright rows, one for each label, 8 x 8.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning import Teacher

LABELS = 10


class UNet(nn.Module):
    """Your network, with its own convention; nothing of freeflow_lightning in it.

    Here: times 0 (data) to 1000 (noise), an output noise - data, and label 10 for "no label".
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        wide = 2 * width
        self.clock = nn.Sequential(nn.Linear(1, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.label = nn.Embedding(LABELS + 1, wide)
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, wide, 4, stride=4)
        self.middle = nn.Conv2d(wide, wide, 3, padding=1)
        self.up = nn.ConvTranspose2d(wide, width, 4, stride=4)
        self.leave = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = self.clock(time[:, None] / 1000) + self.label(label)
        fine = nn.functional.silu(self.enter(x))
        coarse = nn.functional.silu(self.down(fine) + embedding[..., None, None])
        coarse = nn.functional.silu(self.middle(coarse) + embedding[..., None, None])
        return self.leave(torch.cat([fine, self.up(coarse)], dim=1))


class Velocity(nn.Module):
    """The change of variables: freeflow wants t = 1 at the noise, and a velocity towards the
    data.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return -self.unet(x, 1000 * t, condition)


class UNetTeacher(Teacher):
    """What the config names.

    Args:
        checkpoint: a state dict of UNet.
    """

    sample_shape = (1, 8, 8)
    num_classes = LABELS  # labels 0 .. 9 are drawn, and 10 means "none" for guidance

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        unet = UNet()
        unet.load_state_dict(torch.load(checkpoint, weights_only=True))
        self.function = Velocity(unet)

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """u(x, t | condition), [B, 1, 8, 8], for t in [0, 1], [B]."""
        return self.function(x, t, condition)

    def backbone(self) -> nn.Module:
        """Return the network that student and auxiliary network start as copies of."""
        return self.function


def draw_toy(n: int) -> tuple[Tensor, Tensor]:
    """Return n pictures, [n, 1, 8, 8], and their labels, [n]: label i lights row i mod 8."""
    label = torch.randint(LABELS, (n,))
    picture = torch.zeros(n, 1, 8, 8)
    picture[torch.arange(n), 0, label % 8] = 1.0
    return picture, label


def train_toy(steps: int = 3000) -> None:
    """Train the network by flow matching, a tenth of the labels left out, and write my_unet.pt."""
    torch.manual_seed(0)
    net = UNet()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        data, label = draw_toy(64)
        noise = torch.randn_like(data)
        t = torch.rand(64)
        x = torch.lerp(data, noise, t[:, None, None, None])
        label = torch.where(torch.rand(64) < 0.1, LABELS, label)
        loss = (net(x, 1000 * t, label) - (noise - data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), Path(__file__).with_suffix(".pt"))
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    train_toy()
