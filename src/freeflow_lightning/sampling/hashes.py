"""What a network is, as a hash: its weights, and what a teacher does with fixed points."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from freeflow_lightning.nets import precision_of
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.gather_full import gather_full


@torch.no_grad()
def fingerprint(teacher: Teacher, device: torch.device | str, guidance: float = 1.0) -> str:
    """Return a hash of what the teacher is: its class, weights, velocity at four fixed points and
    one decoded point to three digits.

    The points tell apart functions and settings that no weight shows.
    """
    values = probe(teacher, device, guidance).tolist()
    text = f"{class_name(teacher)} {weights_hash(teacher)} " + ",".join(f"{v:.2e}" for v in values)
    return hashlib.sha256(text.encode()).hexdigest()


@torch.no_grad()
def probe(teacher: Teacher, device: torch.device | str, guidance: float = 1.0) -> Tensor:
    """Return what a teacher does with fixed points, on the CPU: its velocity at four and one
    decoded point, at most 4096 numbers of either.
    """
    z, condition = teacher.draw_indexed(
        torch.arange(4), seed=0, stream="fingerprint", device=device
    )
    z = z.to(torch.promote_types(z.dtype, precision_of(teacher)))
    velocity = teacher.guided_velocity(condition, gamma=guidance)
    u = velocity(z, torch.tensor([1.0, 0.7, 0.4, 0.1], device=z.device)).flatten()[:4096]
    return torch.cat([u, teacher.decode(z[:1]).flatten()[:4096]]).cpu()


def class_name(module: nn.Module) -> str:
    """Return where a module's class is defined, and its name."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of all weights and buffers."""
    return digest_tensors(module.state_dict()).hex()


def digest_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of every tensor's name, type, shape and values, whatever their order and device."""
    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest = hashlib.sha256(f"{name} {value.dtype} {list(value.shape)}".encode())
        flat = gather_full(value.detach()).cpu().contiguous().flatten()
        if flat.stride() != (1,):  # one expanded number counts as contiguous
            flat = flat.clone(memory_format=torch.contiguous_format)
        digest.update(flat.view(torch.uint8).numpy().data)
        whole.update(digest.digest())
    return whole.digest()
