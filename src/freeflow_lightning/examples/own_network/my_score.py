"""A score network as a teacher: put your own in the place of ScoreNetwork.

    freeflow inspect --config my_score.yaml   is its velocity sound? which sign, which time?
    freeflow fit --config my_score.yaml       distil it

python my_score.py trains the toy anew: bright rows, one for each label, 8 x 8.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from freeflow_lightning.teachers import PathTeacher, VarianceExplodingPath

LABELS = 10
SIGMA_MIN, SIGMA_MAX = 0.01, 10.0


class ScoreNetwork(nn.Module):
    """Your network; nothing of freeflow_lightning in it.

    Here: it predicts the score grad log p(y) of y = data + sigma noise, for sigma in [SIGMA_MIN,
    SIGMA_MAX]; label 10 is "no label".
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        wide = 2 * width
        self.level = nn.Sequential(nn.Linear(1, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.label = nn.Embedding(LABELS + 1, wide)
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, wide, 4, stride=4)
        self.middle = nn.Conv2d(wide, wide, 3, padding=1)
        self.up = nn.ConvTranspose2d(wide, width, 4, stride=4)
        self.leave = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, y: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        embedding = self.level(sigma.log()[:, None] / 4) + self.label(label)
        sigma = sigma[:, None, None, None]
        state = y / (1 + sigma**2).sqrt()
        fine = nn.functional.silu(self.enter(state))
        coarse = nn.functional.silu(self.down(fine) + embedding[..., None, None])
        coarse = nn.functional.silu(self.middle(coarse) + embedding[..., None, None])
        left = self.leave(torch.cat([fine, self.up(coarse)], dim=1))
        noise = sigma / (1 + sigma**2).sqrt() * state + left / (1 + sigma**2).sqrt()
        return -noise / sigma


class ScoreTeacher(PathTeacher):
    """What the config names: the path and the kind of prediction make it a velocity.

    The other paths are LinearPath, TrigonometricPath and DDPM's schedules; the other predictions
    "data", "noise", "v" and "velocity".

    Args:
        checkpoint: a state dict of ScoreNetwork.
    """

    def __init__(self, checkpoint: str) -> None:
        network = ScoreNetwork()
        network.load_state_dict(torch.load(checkpoint, weights_only=True))
        path = VarianceExplodingPath(SIGMA_MIN, SIGMA_MAX)
        super().__init__(network, path, "score", (1, 8, 8), num_classes=LABELS)


def draw_toy(n: int) -> tuple[Tensor, Tensor]:
    """Return n pictures, [n, 1, 8, 8], and their labels, [n]: label i lights row i mod 8."""
    label = torch.randint(LABELS, (n,))
    picture = torch.zeros(n, 1, 8, 8)
    picture[torch.arange(n), 0, label % 8] = 1.0
    return picture, label


def train_toy(steps: int = 3000) -> None:
    """Train the network by denoising score matching and write my_score.pt."""
    torch.manual_seed(0)
    net = ScoreNetwork()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    low, high = torch.tensor([SIGMA_MIN, SIGMA_MAX]).log()
    for _ in range(steps):
        data, label = draw_toy(64)
        noise = torch.randn_like(data)
        sigma = torch.lerp(low, high, torch.rand(64)).exp()
        wide = sigma[:, None, None, None]
        label = torch.where(torch.rand(64) < 0.1, LABELS, label)
        score = net(data + wide * noise, sigma, label)
        loss = ((1 + wide**2) * (wide * score + noise).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), Path(__file__).with_suffix(".pt"))
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    train_toy()
