"""EDM teachers: the raw network F inside EDM's preconditioning, as u on the linear path, finite at
both ends of time.

EDM's and EDM2's files are pickles that execute code, so they are never opened here. Convert one
once, in a checkout of the repository that it belongs to, and name its network by class_path
afterwards:

    python notebooks/tools/convert_edm.py edm2-img512-s-2147483-0.025.pkl edm2-s.safetensors

writes the weights of the inner network (`unet` in EDM2, `model` in EDM) and prints the teacher's
section of a config. EDM2's code and weights are CC-BY-NC-SA 4.0.
"""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freeflow_lightning.flow import (
    Guidance,
    check_counts,
    check_numbers,
    check_shapes,
    expand,
    guide,
    on_rows,
)
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.predictions import balanced_scale, norm
from freeflow_lightning.teachers.reading.weights import load_weight_file, read_metadata


class EDMVelocity(nn.Module):
    """u(x, t) = [s^2 (1 - t) - t] / n^2 x + s / n F(x / n, ln(sigma) / 4), n = sqrt(t^2 + s^2 (1 -
    t)^2), s = sigma_data.

    This is (D - x) / t for EDM's denoiser D = c_skip y + c_out F, with both divisions by t and by 1
    - t cancelled.

    The network stays in eval mode while it trains: EDM2's rewrites its weights at each forward in
    train mode, and EDM's drops activations out; neither fits several forwards and one backward in a
    step.

    Args:
        net: F(state, ln(sigma) / 4, one-hot labels or None), [B, C, H, W].
        num_classes: width of the one-hot labels; 0 for an unconditional network. The null class is
            the zero vector.
        sigma_data: standard deviation of the data in EDM's own units.
        sigma_min: lowest sigma that the network is asked at.
        sigma_max: highest sigma.
        data_scale: x is this many times EDM's data. 1 / sigma_data gives data of unit variance, as
            latents usually are.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int = 0,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        data_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_counts(0, num_classes=num_classes)
        check_numbers(
            0, without_low=True, sigma_min=sigma_min, sigma_data=sigma_data, data_scale=data_scale
        )
        check_numbers(sigma_min, without_low=True, sigma_max=sigma_max)
        self.net = net
        self.num_classes = num_classes
        self.data_scale = data_scale
        self.sigmas = {"sigma_data": sigma_data, "sigma_min": sigma_min, "sigma_max": sigma_max}
        self.spread = sigma_data * data_scale
        self.t_range = tuple(s * data_scale / (1 + s * data_scale) for s in (sigma_min, sigma_max))

    def train(self, mode: bool = True) -> "EDMVelocity":
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """u(x, t | labels [B]), [B, C, H, W]; computed in float32 or wider around the network."""
        s, n = self.spread, norm(t, self.spread)
        c_noise = (t.clamp(*self.t_range).logit() - math.log(self.data_scale)) / 4
        raw = self.net((x / expand(n, x)).to(x.dtype), c_noise, self._one_hot(condition))
        return (expand((s**2 * (1 - t) - t) / n**2, x) * x + expand(s / n, x) * raw).to(x.dtype)

    def _one_hot(self, labels: Tensor | None) -> Tensor | None:
        if not self.num_classes or labels is None:
            return None
        return nn.functional.one_hot(labels, self.num_classes + 1)[:, :-1].float()


class EDMTeacher(Teacher):
    """EDM or EDM2: a preconditioned denoiser, guided by a second network as autoguidance and EDM2's
    guidance are.

    Guidance is u_gamma = gamma u(x, t | c) + (1 - gamma) u_guide(x, t | c), where the guiding
    network is a weaker or an unconditional one; without it, u_guide is the same network at the null
    class, which helps only if it was trained with dropped labels (EDM2's were not).

    For the student's scalar inputs name the time embedding: `time_module: net.emb_noise` (EDM2),
    `net.map_layer1` (EDM).

    Args:
        network: the inner network F(state, ln(sigma) / 4, one-hot labels): EDM2's UNet, EDM's
            SongUNet or DhariwalUNet.
        sample_shape: shape of one state, [C, H, W].
        num_classes: classes; labels are one-hot and the null class is the zero vector. 0 for an
            unconditional network.
        checkpoint: weights that notebooks/tools/convert_edm.py wrote, or any state dict of the
            network; as it is if not given.
        guide: the guiding network, with the calling convention of `network`; one without labels
            ignores them.
        guide_checkpoint: its weights.
        sigma_data: standard deviation of the data that EDM's preconditioning was built for.
        sigma_min: lowest sigma that the network is asked at.
        sigma_max: highest sigma.
        data_scale: the states are this many times EDM's data; 2 gives EDM2's latents (sigma_data
            0.5) unit variance, for which the paper's laws of delta and r were chosen.
        weights_key: which of the files' weights to take, where they hold several networks.

    >>> import torch
    >>> class Zero(nn.Module):
    ...     def forward(self, y, c_noise, labels):
    ...         return 0 * y
    >>> EDMTeacher(Zero(), (1,)).velocity(torch.ones(2, 1), torch.tensor([0.0, 1.0]), None)
    tensor([[ 1.],
            [-1.]])
    """

    def __init__(
        self,
        network: nn.Module,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        checkpoint: str | Path | None = None,
        guide: nn.Module | None = None,
        guide_checkpoint: str | Path | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        data_scale: float = 1.0,
        weights_key: str | None = None,
    ) -> None:
        super().__init__()
        check_shapes(sample_shape=sample_shape)
        if guide is None and guide_checkpoint is not None:
            raise ValueError(
                "guide_checkpoint is given without guide: name the guiding network's class"
            )
        for net, path in ((network, checkpoint), (guide, guide_checkpoint)):
            if net is not None and path is not None:
                load_weight_file(net, path, weights_key)
                check_facts(path, sigma_data)
        settings = (num_classes, sigma_data, sigma_min, sigma_max, data_scale)
        self.function = EDMVelocity(network, *settings)
        self.guide = EDMVelocity(guide, *settings) if guide is not None else None
        self.sample_shape = tuple(sample_shape)
        self.num_classes = num_classes
        self.data_scale = data_scale

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)

    def null_condition(self, condition: Any) -> Any:
        """Return what the guiding branch is asked with: the same labels with a second network, the
        null class without one.
        """
        return condition if self.guide is not None else super().null_condition(condition)

    def guided_by(self, guidance: Guidance, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Return u_gamma with the guiding network's velocity for the unconditional one, if there is
        one.
        """
        if self.guide is None:
            return super().guided_by(guidance, x, t, condition)
        conditional = self(x, t, condition)
        guiding = on_rows(self.guide, guidance.rows, conditional)(x, t, condition)
        return guide(conditional, guiding, t, guidance.gamma, guidance.interval)

    def decode(self, x: Tensor) -> Tensor:
        """EDM's own data, in [-1, 1] for the pixel models."""
        return x / self.data_scale

    def backbone(self) -> nn.Module:
        return self.function

    def difference_scale(self, t: Tensor) -> Tensor:
        return balanced_scale(t, self.function.spread)

    def output_scale(self, t: Tensor) -> Tensor:
        return balanced_scale(t, self.function.spread)


def check_facts(path: str | Path, sigma_data: float) -> None:
    """Compare what notebooks/tools/convert_edm.py noted in a file with the setting (Raises:
    ValueError where they differ).
    """
    noted = json.loads(read_metadata(path).get("edm", "{}")).get("sigma_data", sigma_data)
    if noted != sigma_data:
        raise ValueError(
            f"{path} was trained with sigma_data = {noted}, not {sigma_data}: set sigma_data to it"
        )
