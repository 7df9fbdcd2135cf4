"""Teachers from diffusers: a pipeline's transformer or UNet, with classes, cached text embeddings
or no condition.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import Guidance, check_numbers, check_shapes, interval_guidance
from freeflow_lightning.flow.checks import in_list
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.conditions import Classes, Conditions, NoCondition, Prompts
from freeflow_lightning.teachers.ddpm import DDPM_PREDICTIONS
from freeflow_lightning.teachers.diffusers.families import FAMILIES
from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.diffusers.files import (
    load_network,
    load_scheduler_config,
    read_pipeline,
)
from freeflow_lightning.teachers.diffusers.layouts import LAYOUTS
from freeflow_lightning.teachers.diffusers.network import DiffusersNetwork, DiffusersVelocity
from freeflow_lightning.teachers.diffusers.previews import PipelineDecoder
from freeflow_lightning.teachers.discrete_path import DiscretePath
from freeflow_lightning.teachers.gaussian_path import PathVelocity
from freeflow_lightning.teachers.predictions import balanced_scale


class DiffusersTeacher(Teacher):
    """The denoising network of a diffusers pipeline, from a folder or a hub repository. Only
    safetensors are read.

    Conditions are classes, prompts or nothing. For prompts run `freeflow embed` once: no text
    encoder is loaded here, and the VAE only when samples are decoded for a picture. A model that
    embeds its guidance scale (Flux.1-dev) takes gamma as an input and is asked once where others
    are asked twice; its plain velocity is that at gamma = 1.

    Args:
        model: folder that save_pretrained of a pipeline or of its network wrote, or a repository's
            name.
        conditions: Prompts, Classes or NoCondition; a class-conditional network's own classes if
            not given.
        latent_size: size of the latent before packing: picture size / 8 (/ 32 for Sana and
            HunyuanImage) as a number or [height, width]; [frames, height, width] for films; the
            config's sample_size if not given.
        dtype: of the weights: float32, bfloat16, float16. Student and auxiliary start in it too.
        subfolder: of the network; transformer or unet, as model_index.json says, if not given.
        family: convention of a class that this package does not know, or instead of the one that it
            knows.
        guidance: linear for u_gamma of the paper; pipeline to follow it by what the family's
            pipeline does to a guided velocity (Qwen-Image, Lumina2: the conditional velocity's
            norm).
        revision: of the repository.
        variant: of the weight files, for example fp16.
        t_max: highest t at which an epsilon, v or x0 network is asked, see DDPMTeacher.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an unknown class, weights that do not fit, conditions or a latent size that are
            missing.
    """

    casts_states = True  # times and the change of variables stay in float32

    def __init__(
        self,
        model: str | Path,
        conditions: Conditions | None = None,
        latent_size: int | Sequence[int] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        subfolder: str | None = None,
        family: Family | None = None,
        guidance: Literal["linear", "pipeline"] = "linear",
        revision: str | None = None,
        variant: str | None = None,
        t_max: float = 1.0,
    ) -> None:
        super().__init__()
        check_numbers(0, 1, without_low=True, t_max=t_max)
        if latent_size is not None:
            check_shapes(latent_size=in_list(latent_size))
        pipeline = read_pipeline(model, subfolder, revision)
        row = family or find_family(pipeline.class_name)
        net = load_network(pipeline, getattr(torch, dtype), variant)
        self.pipeline = pipeline
        self.family = row
        self.latent_size = size_of(row, net, latent_size)
        self.sample_shape = LAYOUTS[row.layout].shape(net.config["in_channels"], self.latent_size)
        scheduler = load_scheduler_config(pipeline) if row.needs_scheduler else {}
        raw = DiffusersNetwork(net, row, self.latent_size, scheduler)
        self.function = velocity_of(raw, pipeline.class_name, t_max)
        if conditions is None:
            self.conditions = own_conditions(row, net)
        else:
            self.conditions = check_conditions(conditions, row, pipeline.class_name)
        self.num_classes = self.conditions.num_classes
        self.embedded = raw.embedded
        self.rescale = rescale_of(row, guidance, pipeline.class_name)
        self.decoder = PipelineDecoder(pipeline, row, self.latent_size)

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)

    def guided_by(self, guidance: Guidance, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """u_gamma by the null condition, or by the network's own input of gamma where it has
        one.
        """
        if not self.embedded:
            return super().guided_by(guidance, x, t, condition)
        return self.function(
            x, t, condition, interval_guidance(guidance.gamma, t, guidance.interval)
        )

    @property
    def guided_evaluations(self) -> int:
        return 1 if self.embedded else 2

    def gamma(self, guidance_scale: float) -> float:
        """Return the gamma that a pipeline's guidance_scale means; Z-Image counts from 0."""
        return self.family.guidance_offset + guidance_scale

    def null_condition(self, condition: Any) -> Any:
        """Return the empty prompt or the null class; the condition itself for a model that embeds
        guidance and is never asked.
        """
        return condition if self.embedded else super().null_condition(condition)

    def decode(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1], [B, 3, H, W], by the pipeline's VAE; the frames of a film stand side
        by side.
        """
        return self.decoder(x)

    def backbone(self) -> nn.Module:
        return self.function

    def difference_scale(self, t: Tensor) -> Tensor:
        return (
            super().difference_scale(t) if self.family.prediction == "flow" else balanced_scale(t)
        )

    def output_scale(self, t: Tensor) -> Tensor:
        if isinstance(self.function, PathVelocity):
            return self.function.output_scale(t)
        return super().output_scale(t)


def find_family(class_name: str) -> Family:
    """Return the row of a class (Raises: ValueError for one that has none, with what to pass)."""
    if class_name not in FAMILIES:
        raise ValueError(
            f"{class_name} is not among the networks whose convention is known "
            f"({', '.join(sorted(FAMILIES))}): pass its essentials as family={{time: [a, b], "
            "sign: -1 or 1, layout: image} where it is given the time a + b t (t = 1 is the "
            "prior) and sign * output points to data"
        )
    return FAMILIES[class_name]


def size_of(family: Family, net: Any, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return the latent's size as the family's layout wants it."""
    axes = LAYOUTS[family.layout].axes
    count = 3 if family.layout in ("video", "voxels") else 2
    own = net.config.get("sample_size") if family.layout == "image" else None
    size = own if given is None else given
    if size is None:
        raise ValueError(
            f"{type(net).__name__} does not say how large its latents are: give latent_size "
            f"({axes})"
        )
    whole = (size,) if isinstance(size, int) else tuple(size)
    if isinstance(size, int) and count == 2:
        whole = (size, size)
    if len(whole) != count or min(whole) < 1:
        raise ValueError(f"expected latent_size as {axes}, got {size}")
    return whole


def velocity_of(
    net: DiffusersNetwork, class_name: str, t_max: float
) -> DiffusersVelocity | PathVelocity:
    """Return u(x, t, condition) of a network (Raises: ValueError for a t_max without effect)."""
    if net.family.prediction != "flow":
        return ddpm_velocity(net, t_max)
    if t_max != 1:
        raise ValueError(f"{class_name} predicts a velocity, which needs no t_max: leave it out")
    return DiffusersVelocity(net)


def rescale_of(
    family: Family, guidance: Literal["linear", "pipeline"], class_name: str
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what a guided velocity becomes, as Teacher.rescale has it (Raises: ValueError for a
    pipeline that does nothing to it).
    """
    if guidance == "linear":
        return None
    if guidance != "pipeline":
        raise ValueError(f"expected guidance 'linear' or 'pipeline', got {guidance!r}")
    if family.rescale is None:
        raise ValueError(
            f"the guidance of {class_name}'s pipeline is linear: leave guidance: pipeline out"
        )
    return family.rescale


def own_conditions(family: Family, net: Any) -> Conditions:
    """Return the conditions that a network needs no files for."""
    if family.prompts:
        raise ValueError(
            f"{type(net).__name__} takes prompts: write embeddings with freeflow embed --model "
            "MODEL --prompts prompts.txt --output embeddings, and pass conditions: Prompts with "
            "folder: embeddings"
        )
    return Classes(net.config["num_embeds_ada_norm"]) if family.classes else NoCondition()


def check_conditions(conditions: Conditions, family: Family, class_name: str) -> Conditions:
    """Return the conditions, if prompts are those of this kind of network (Raises: ValueError)."""
    if isinstance(conditions, Prompts):
        made_for = conditions.index.get("network", class_name)
        if made_for != class_name or not set(conditions.names) <= set(
            family.prompts or conditions.names
        ):
            raise ValueError(
                f"the embeddings in {conditions.folder} are {', '.join(conditions.names)} for "
                f"{made_for}, and this network is {class_name}: run freeflow embed with its own "
                "model"
            )
    return conditions


def ddpm_velocity(net: DiffusersNetwork, t_max: float = 1.0) -> PathVelocity:
    """Return an epsilon, v or x0 network with its scheduler's betas as u(x, t, condition)."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 (slow to import)

    table = DDPMScheduler.from_config(net.scheduler)
    path = DiscretePath(table.alphas_cumprod, t_max=t_max)
    return PathVelocity(net, path, DDPM_PREDICTIONS[table.config["prediction_type"]])
