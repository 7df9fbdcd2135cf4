"""A student opened from a path, whatever it is of, its auxiliary network, and where both run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import TimeDistribution
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.students.export import MANIFEST
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.official_convention import OfficialConvention
from freeflow_lightning.students.official_weights import VAE, is_foreign
from freeflow_lightning.teachers import Prompts, Teacher

SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
"""Of files of weights."""


class Overrides(NamedTuple):
    """What the user gives beside a checkpoint: see FlowMap.from_checkpoint."""

    teacher: Teacher | None = None
    network: nn.Module | None = None
    trust: list[str] | None = None


def open_student(
    checkpoint: str | Path,
    average: str | None = None,
    image_size: Literal[256, 512] | None = None,
    vae: str | None = None,
    official: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
    prompts: str | None = None,
    overrides: Overrides = Overrides(),  # noqa: B008 (immutable)
    ema_length: float | None = None,
) -> FlowMap:
    """Return the student of a file or a folder, by what it is: the one place where commands open
    one.

    An option that the file leaves without effect is refused.

    Args:
        checkpoint: a training checkpoint (a file, a folder, or a run's folder for its last one),
            official weights, or an exported student: a folder or a hub repository.
        average: which average of a training checkpoint.
        image_size: height and width of the pictures of official weights.
        vae: what decodes official latents; a training checkpoint's config names its own.
        official: how to read official weights.
        prompts: folder of embeddings for an exported student of prompts.
        overrides: teacher, network and class paths that the user gives beside it.
        ema_length: length of an average that is made of a run's snapshots.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a file of neither kind, options that are not for it, or weights of another image
            size.
    """
    of_training = average is not None or ema_length is not None
    of_official = bool(image_size or vae or official != OfficialConvention())
    if is_exported(checkpoint):
        _refuse_for_exported(checkpoint, of_training or of_official, overrides)
        conditions = Prompts(prompts) if prompts else None
        return FlowMap.from_pretrained(
            checkpoint, conditions=conditions, network=overrides.network, trust=overrides.trust
        )
    if prompts:
        raise ValueError(f"{checkpoint} is no exported student: leave --prompts out")
    if is_foreign(checkpoint):
        _refuse_for_official(checkpoint, of_training, overrides)
        return FlowMap.from_official(
            checkpoint, official, vae=vae or VAE, input_size=image_size and image_size // 8
        )
    if of_official:
        raise ValueError(
            f"{checkpoint} is a training checkpoint, which carries its config: leave --image_size, "
            "--vae and --official out"
        )
    return FlowMap.from_checkpoint(
        checkpoint, average=average, ema_length=ema_length, **overrides._asdict()
    )


def _refuse_for_exported(checkpoint: str | Path, of_others: bool, overrides: Overrides) -> None:
    """Refuse options of other files, and a teacher (ValueError)."""
    if of_others:
        raise ValueError(
            f"{checkpoint} is an exported student, which says all of itself: leave --average, "
            "--ema_length, --image_size, --vae and --official out"
        )
    if overrides.teacher is not None:
        raise ValueError(
            f"{checkpoint} is an exported student, which has left its teacher behind: leave "
            "--teacher CLASS out"
        )


def _refuse_for_official(checkpoint: str | Path, of_training: bool, overrides: Overrides) -> None:
    """Refuse options of a training checkpoint, and parts of one's own (ValueError)."""
    if any(overrides):
        raise ValueError(
            f"{checkpoint} holds official weights: leave --teacher CLASS, --network and --trust out"
        )
    if of_training:
        raise ValueError(
            f"{checkpoint} is no training checkpoint and holds one student: leave --average and "
            "--ema_length out"
        )


def is_exported(place: str | Path) -> bool:
    """Return whether a path is an exported student's folder, or the name of a hub repository rather
    than of a file.
    """
    named = (
        re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(place))
        and Path(place).suffix not in SUFFIXES
    )
    here = Path(place).exists() or Path(place).parent.is_dir()
    return (Path(place) / MANIFEST).is_file() or (bool(named) and not here)


class TrainedAuxiliary(NamedTuple):
    """The network G of a checkpoint and how it was trained.

    Args:
        network: G(x, r, condition, gamma=).
        r: law of its time.
        guidance_range: gammas that it was trained for.
        guidance_interval: times inside which the teacher that it corrects towards is guided.
        lr: its learning rate.
        output_scale: what its raw output is worth in u at r, [B] to [B]; None for a network that
            predicts u itself.
        betas: Adam's.
    """

    network: nn.Module
    r: TimeDistribution
    guidance_range: tuple[float, float]
    guidance_interval: tuple[float, float]
    lr: float
    output_scale: Callable[[Tensor], Tensor] | None = None
    betas: tuple[float, float] = (0.9, 0.99)  # Table 6


def open_auxiliary(
    path: str | Path, student: FlowMap, overrides: Overrides
) -> TrainedAuxiliary | None:
    """Return the auxiliary network that was trained with a student, on its device; None where the
    path holds none.
    """
    if is_exported(path):
        return None
    from freeflow_lightning.students.training_module import read_auxiliary  # noqa: PLC0415 (a recipe is a LightningModule: seconds that others do without)

    found = read_auxiliary(path, **overrides._asdict())
    if found is None:
        return None
    module, network = found
    training = module.auxiliary_training
    if training is None:
        return None
    return TrainedAuxiliary(
        network.to(student.device),
        training.r,
        module.guidance_range,
        training.guidance_interval,
        training.lr,
        student.teacher.output_scale if module.starts_from_teacher else None,
        module.betas,
    )


def pick_device(name: str, processes: Processes = Processes()) -> torch.device:  # noqa: B008 (immutable)
    """Return the named device; "auto" is the accelerator that torch sees, or the CPU. Of several
    processes each takes an accelerator of its own, unless the name has a number.

    Raises:
        ValueError: a device that this machine does not have.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    named = (found or torch.device("cpu")) if name == "auto" else find_device(name, found)
    is_shared = found is not None and named.type == found.type and ":" not in name
    if processes.size == 1 or not is_shared:
        return named
    return torch.device(named.type, processes.local_rank % torch.accelerator.device_count())


def find_device(name: str, accelerator: torch.device | None) -> torch.device:
    """Return the device of a name, the CPU or an accelerator (Raises: ValueError for one that is
    not here).
    """
    devices = ["cpu"]
    if accelerator is not None:
        kind, count = accelerator.type, torch.accelerator.device_count()
        devices += [kind, *(f"{kind}:{place}" for place in range(count))]
    if name not in devices:
        raise ValueError(
            f"expected a device that is here, auto or {', '.join(devices)}, got {name!r}"
        )
    return torch.device(name)
