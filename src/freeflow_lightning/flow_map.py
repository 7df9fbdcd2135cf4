"""FlowMap: a trained student for inference: noise to a sample in one network evaluation."""

import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from freeflow_lightning import flow
from freeflow_lightning.checkpoint import read_checkpoint_file
from freeflow_lightning.module import FreeFlowModule
from freeflow_lightning.nets import LoRA, SiT
from freeflow_lightning.objectives import ContinuousPrediction
from freeflow_lightning.official import LatentSpace, OfficialConvention, read_official
from freeflow_lightning.parallel import fill
from freeflow_lightning.recipe import Recipe
from freeflow_lightning.sampling import Draw, evaluate_rows
from freeflow_lightning.teachers import LatentDecoder, Teacher
from freeflow_lightning.teachers.checkpoints import read_file


class FlowMap(nn.Module):
    """f(z, 1) = z + F(z, 1, c, delta = 1, gamma), with what is needed to draw and decode its samples.

    Args:
        network: the student, (x, t, condition, delta=, gamma=) -> F.
        teacher: gives shapes, conditions and the decoder; its velocity is not used.
        guidance_range: the gammas that the student was trained for.
    """

    def __init__(self, network: nn.Module, teacher: Teacher, guidance_range: tuple[float, float] = (1.0, 2.0)) -> None:
        super().__init__()
        self.network, self.teacher, self.guidance_range = network.eval(), teacher, guidance_range

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, average: str | None = None, teacher: Teacher | None = None) -> "FlowMap":
        """The student of a training checkpoint, from its first average (or the one named) if it has any.

        Args:
            path: a checkpoint that `freeflow fit` or a Trainer wrote, a file or a folder. Nothing in it is executed.
            average: name of the average, for example "ema_0_9999", or "raw" for the trained weights themselves.
            teacher: the teacher, for a checkpoint of a module that was built in Python rather than from a config.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of FreeFlowModule, an unknown average, or a teacher that is missing.
        """
        checkpoint = read_checkpoint(path)
        module = build_module(checkpoint, path, teacher)
        names = list(dict.fromkeys(key.split(".")[1] for key in checkpoint["state_dict"] if key.startswith("averages.")))
        chosen = average or (names[0] if names else "raw")
        if chosen != "raw" and chosen not in names:
            raise ValueError(f"{path} has no average {chosen!r}: expected one of {[*names, 'raw']}")
        prefix = "student." if chosen == "raw" else f"averages.{chosen}."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        try:
            module.student.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights of {path} do not fit its config: {error}") from error
        return cls(module.student, module.teacher, module.guidance_range)

    @classmethod
    def from_official(
        cls,
        path: str | Path,
        convention: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
        *,
        vae: str | LatentDecoder | None = "stabilityai/sd-vae-ft-ema",
        guidance_range: tuple[float, float] = (1.0, 2.0),
        num_heads: int | None = None,
        input_size: int | None = None,
    ) -> "FlowMap":
        """A student from the FreeFlow authors' weights: a SiT with one embedder each of delta and gamma.

        Args:
            path: .pt, .pth, .ckpt or .safetensors. Nothing in it is executed.
            convention: how to read it; what is "auto" is measured and said.
            vae: what decodes its latents, loaded for the first picture; None shows the latents.
            guidance_range: the gammas it was trained for (Table 6).
            num_heads: attention heads, where the width is none of the published ones.
            input_size: side of the latents, only for a file without position embedding: 32 at 256, 64 at 512.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, embedders that are not recognised, or an "auto" that the samples do not decide.
        """
        student = read_official(path, convention, num_heads=num_heads, input_size=input_size)
        net = student.get_submodule("backbone.net")
        assert isinstance(net, SiT)
        space = LatentSpace(net.sample_shape, net.num_classes, LatentDecoder(vae) if isinstance(vae, str) else vae)
        return cls(student, space, guidance_range)

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def forward(self, z: Tensor, condition: Any = None, guidance: float | Tensor = 1.5, delta: float | Tensor = 1.0) -> Tensor:
        """f(z, delta), [B, *sample_shape], in one evaluation: noise z [B, *sample_shape] to samples at delta = 1.

        Guidance and delta (in [0, 1]) are numbers or [B].
        """
        one = torch.ones(len(z), device=z.device)
        F = self.network(z, one, condition, delta=one * delta, gamma=one * guidance)
        return flow.flow_map(z, F, one * delta)

    def sample(
        self, n: int, condition: Any = None, guidance: float = 1.5, seed: int = 0, *, batch_size: int = 256, first: int = 0
    ) -> Tensor:
        """Samples number `first` to `first + n - 1` of the given seed, [n, *sample_shape].

        Args:
            n: how many, at least 1.
            condition: one condition per sample, or None to draw them; class labels [n] for a class-conditional student.
            guidance: gamma; a warning names the trained range if it is left.
            seed: sample i is a function of (seed, i).
            batch_size: samples per evaluation; has no influence on the samples.
            first: index of the first sample, to continue an earlier call.
        """
        if n < 1:
            raise ValueError(f"expected at least one sample, got {n}")
        self.check_guidance(guidance)
        parts = []
        for index in torch.arange(n).split(batch_size):
            z, drawn = Draw(seed).noise(self.teacher, index + first, self.device)
            given = flow.apply(lambda tensor: tensor.to(self.device), flow.take(condition, index))
            parts.append(evaluate_rows(lambda z, c: self(z, c, guidance), z, drawn if condition is None else given))
        return torch.cat(parts)

    def check_guidance(self, guidance: float) -> None:
        """Warn where gamma is outside the range that the student was trained for."""
        low, high = self.guidance_range
        if not low <= guidance <= high:
            warnings.warn(f"guidance {guidance} is outside [{low}, {high}], which this student was trained for", stacklevel=3)


def is_foreign(path: str | Path) -> bool:
    """Whether a file of weights was saved by other code than Lightning; not so of a file that cannot be read."""
    try:
        content = read_file(path)
    except (ValueError, FileNotFoundError):
        return False
    return not (isinstance(content, dict) and "pytorch-lightning_version" in content)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint, a file or a sharded run's folder, as tensors and plain values only (nothing is executed)."""
    if not Path(path).exists():
        raise FileNotFoundError(
            f"no checkpoint at {path}: expected a .ckpt file, for example runs/NAME/version_0/checkpoints/last.ckpt"
        )
    try:
        checkpoint = read_checkpoint_file(Path(path))
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): it is damaged, or holds more than tensors and "
            "plain values, which is refused because loading it would run code"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return checkpoint


def build_module(checkpoint: dict[str, Any], path: str | Path, teacher: Teacher | None) -> FreeFlowModule:
    """The module that a checkpoint belongs to, built from the config it carries."""
    config = checkpoint.get("hyper_parameters")
    if not config:
        if teacher is None:
            raise ValueError(f"{path} carries no config: it was not written by `freeflow fit`; pass teacher=...")
        lora = LoRA(**checkpoint["lora"]) if "lora" in checkpoint else None
        return FreeFlowModule(teacher, lora=lora, prediction=ContinuousPrediction())  # the form is not used; it allows dropout
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Recipe, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": config})).model
    if not isinstance(module, FreeFlowModule):
        raise ValueError(f"{path} is a checkpoint of {type(module).__name__}, which has no flow map: expected FreeFlowModule")
    fill(module, module.missing())
    return module


def read_auxiliary(path: str | Path, teacher: Teacher) -> tuple[FreeFlowModule, nn.Module] | None:
    """The module of a training checkpoint and its auxiliary network G; None where the checkpoint holds none.

    Raises:
        ValueError: weights that do not fit the checkpoint's config.
    """
    checkpoint = read_checkpoint(path)
    weights = {k.removeprefix("auxiliary."): v for k, v in checkpoint["state_dict"].items() if k.startswith("auxiliary.")}
    if not weights:
        return None
    module = build_module(checkpoint, path, teacher)
    if module.auxiliary is None:
        raise ValueError(f"{path} holds an auxiliary network that its config does not have (correction_fraction 0)")
    try:
        module.auxiliary.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the auxiliary network of {path} does not fit its config: {error}") from error
    return module, module.auxiliary.eval()
