"""A network that takes its time as a channel of the input: put your own in the place of Network.

    freeflow inspect --config my_time_channel.yaml   is its velocity sound? which sign, which time?
    freeflow fit --config my_time_channel.yaml       distil it

python my_time_channel.py trains the toy anew: one bright row of 8 x 8.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning import Teacher


class Network(nn.Module):
    """Your network, with its own convention; nothing of freeflow_lightning in it.

    Here: time 0 at the noise and 1 at the data, an output data - noise, no labels.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        wide = 2 * width
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, wide, 4, stride=4),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(wide, width, 4, stride=4),
        )
        self.leave = nn.Conv2d(width + 2, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        seen = torch.cat([x, time[:, None, None, None].expand_as(x)], dim=1)
        return self.leave(torch.cat([self.body(seen), seen], dim=1))


class Velocity(nn.Module):
    """The change of variables, and a place where the student can be told how far to jump.

    freeflow wants t = 1 at the noise, and a velocity towards the data. The student is a copy of
    this with two more inputs, delta and gamma, which are added to the output of a module that
    embeds the time. Network has none, so that one stands here: `project` is 0 at first, and the
    teacher's velocity does not change.
    """

    def __init__(self, net: Network, width: int = 32) -> None:
        super().__init__()
        self.net = net
        self.time_embedding = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.project = nn.Linear(width, 64)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        shift = self.project(self.time_embedding(t[:, None])).view_as(x)
        return self.net(x + shift, 1 - t)


class TimeChannelTeacher(Teacher):
    """What the config names.

    Args:
        checkpoint: a state dict of Network.
    """

    sample_shape = (1, 8, 8)

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        net = Network()
        net.load_state_dict(torch.load(checkpoint, weights_only=True))
        self.function = Velocity(net)

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """u(x, t), [B, 1, 8, 8], for t in [0, 1], [B]."""
        return self.function(x, t)

    def backbone(self) -> nn.Module:
        """Return the network that student and auxiliary network start as copies of."""
        return self.function


def draw_toy(n: int) -> Tensor:
    """Return n pictures, [n, 1, 8, 8], each with one of its eight rows lit."""
    picture = torch.zeros(n, 1, 8, 8)
    picture[torch.arange(n), 0, torch.randint(8, (n,))] = 1.0
    return picture


def train_toy(steps: int = 3000) -> None:
    """Train the network by flow matching and write my_time_channel.pt."""
    torch.manual_seed(0)
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        data = draw_toy(64)
        noise = torch.randn_like(data)
        time = torch.rand(64)
        x = torch.lerp(noise, data, time[:, None, None, None])
        loss = (net(x, time) - (data - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), Path(__file__).with_suffix(".pt"))
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    train_toy()
