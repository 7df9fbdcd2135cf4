"""What a training step costs, before it is run: parameters, evaluations, FLOPs and memory, from a
step on tensors without data.

The step is the module's own, run once under FakeTensorMode: shapes, dtypes and lifetimes are real,
the numbers are not computed and take no memory. So the activations are counted, not guessed, for
any teacher that such tensors can pass through.
"""

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Generator, Tensor, nn

from freeflow_lightning.nets import SiT
from freeflow_lightning.nets.sit import SIZES
from freeflow_lightning.profiling.live_memory import (
    KeptForBackward,
    LiveMemory,
    count_bytes,
    tensors_of,
)
from freeflow_lightning.profiling.no_data import no_data, renew_storages
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.teachers import SiTVelocity, Teacher, VelocityTeacher
from freeflow_lightning.training.optimizer import MasterAdam

PrecisionName = Literal["32", "bf16-mixed", "bf16-true"]
SizeName = Literal["S/2", "B/2", "L/2", "XL/2"]

PRECISIONS: dict[str, Callable[[], Precision]] = {
    "32": Precision,
    "bf16-mixed": lambda: MixedPrecision("bf16-mixed", "cpu"),
    "bf16-true": lambda: HalfPrecision("bf16-true"),
}
"""Lightning's own plugins: what they cast is what a Trainer of that precision casts."""

NOT_COUNTED = (
    "Not counted: the CUDA context, workspaces of libraries and what the allocator loses to "
    "fragmentation; under DDP one more copy of the gradients (its buckets); validation and the "
    "decoder of pictures."
)


class Costs(NamedTuple):
    """What one process's training step costs. Memory is in bytes.

    Args:
        batch_size: samples of the step.
        precision: Lightning's name.
        parameters: network: number of parameters.
        evaluations: network: forward passes per training sample; a guided velocity counts two.
        weights: network: bytes of weights and buffers; "average" for the moving averages.
        gradients: of all trained weights.
        optimizer: Adam's two moments, and its float32 weights where the networks' are narrower.
        activations: what autograd keeps between forward and backward, each storage once, weights
            not counted; the casts of weights that mixed precision keeps are.
        peaks: phase of the step: the most memory alive in it, everything above included.
        flops: floating-point operations per training sample, forward and backward; a multiply-add
            counts two.
    """

    batch_size: int
    precision: str
    parameters: dict[str, int]
    evaluations: dict[str, float]
    weights: dict[str, int]
    gradients: int
    optimizer: int
    activations: int
    peaks: dict[str, int]
    flops: float

    @property
    def peak(self) -> int:
        """The most memory alive in the whole step, bytes."""
        return max(self.peaks.values())


def estimate(
    make: Callable[[], Distillation],
    *,
    batch_size: int,
    precision: PrecisionName = "32",
    averages: int = 1,
) -> Costs:
    """Run a training step of each kind that `make()` takes on tensors without data, and count: the
    most memory of all, and the mean FLOPs and evaluations of a turn of its steady steps.

    As in a Trainer, the gradients of the step before are alive until the backward pass begins, and
    Adam's update needs one copy of its largest parameter group.

    Args:
        make: builds the module; called inside the mode, so that no weight is ever allocated.
        batch_size: samples of one process and micro-batch.
        precision: 32, bf16-mixed or bf16-true.
        averages: moving averages of the student.

    Raises:
        ValueError: the teacher or the networks do more than such tensors allow, with the cause.

    >>> from freeflow_lightning import FreeFlowModule
    >>> costs = estimate(lambda: FreeFlowModule(sit_teacher("S/2", 256)), batch_size=2)
    >>> costs.parameters["student"] - costs.parameters["teacher"]  # delta and gamma
    493056
    """
    if batch_size < 1 or averages < 0:
        raise ValueError(
            f"expected a batch size of at least 1 and averages of at least 0, got {batch_size} "
            f"and {averages}"
        )
    with no_data():
        module, plugin = make(), PRECISIONS[precision]()
        module.student_scale = 1.0  # tensors without data do not tell it, and it changes no cost
        module.skip_idle_rows = False  # they select no rows, and memory must hold the most
        networks = [module.teacher, *module.networks().values()]
        renew_storages(networks, torch.bfloat16 if isinstance(plugin, HalfPrecision) else None)
        owned = module.tensors_by_network()  # an adapter counts as its network's
        standing = _standing(module, averages)
        try:
            step = _trace_kinds(module, plugin, batch_size, networks)
        except Exception as error:  # whatever an operation, or the teacher, does without values
            raise ValueError(
                f"the step cannot be traced without data ({type(error).__name__}: {error}): the "
                "teacher's velocity must be made of torch operations that do not look at values"
            ) from error
    alive = sum(standing.weights.values()) + standing.optimizer
    return Costs(
        batch_size=batch_size,
        precision=precision,
        parameters={name: _count_parameters(tensors) for name, tensors in owned.items()},
        evaluations=module.evaluations_per_sample(),
        weights=standing.weights,
        gradients=standing.gradients,
        optimizer=standing.optimizer,
        activations=step.activations,
        peaks={
            "forward": alive + standing.gradients + step.forward,
            "backward": alive + step.backward,
            "update": alive + standing.gradients + standing.update,
        },
        flops=step.flops / batch_size,
    )


class Standing(NamedTuple):
    """Bytes alive between two steps, and what an update takes beside them; as in Costs."""

    weights: dict[str, int]
    gradients: int
    optimizer: int
    update: int


def _standing(module: Distillation, averages: int) -> Standing:
    weights = {name: count_bytes(tensors) for name, tensors in module.tensors_by_network().items()}
    if averages:  # which are never narrow
        wide = (x.numel() * max(x.element_size(), 4) for x in set(tensors_of(module.trained)))
        weights["average"] = averages * sum(wide)
    trained = [p for network in module.networks().values() for p in network.parameters()]
    gradients = count_bytes(p for p in trained if p.requires_grad)
    optimizer = module.make_optimizer()
    groups = [count_bytes(group["params"]) for group in optimizer.param_groups]
    if isinstance(optimizer, MasterAdam):
        return Standing(weights, gradients, 3 * sum(groups), max(groups) + sum(groups))
    return Standing(weights, gradients, 2 * sum(groups), max(groups))


def _count_parameters(tensors: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in tensors if isinstance(p, nn.Parameter))


def sit_teacher(size: SizeName, image_size: int) -> Teacher:
    """Return a SiT of a published size with weights as initialised, for its costs: not for training
    from.

    Args:
        size: S/2, B/2, L/2 or XL/2.
        image_size: of the pictures, 256 or 512 in the published ones; latents are an eighth of it.
    """
    if image_size < 16 or image_size % 16:
        raise ValueError(
            f"expected an image size that is a multiple of 16 (latents of an eighth, patches of "
            f"2), got {image_size}"
        )
    net = SiT(image_size // 8, **SIZES[size.removesuffix("/2")])  # type: ignore[arg-type]  # not its other arguments
    return VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes)


class Traced(NamedTuple):
    """Bytes kept for the backward pass, peaks of forward and backward beside what stands, FLOPs."""

    activations: int
    forward: int
    backward: int
    flops: float


def _trace_kinds(
    module: Distillation, plugin: Precision, batch_size: int, networks: Iterable[nn.Module]
) -> Traced:
    """Return the most memory of all kinds of steps, and the mean FLOPs of a turn; the module is
    left at the last of it.
    """
    traced: dict[nn.Module | None, Traced] = {}  # a kind by the network that it leaves alone
    flops = []
    for step in (0, *module.steady_steps):
        module.begin_step(step)
        if module.resting not in traced:
            traced[module.resting] = _trace(module, plugin, batch_size, networks)
            module.zero_grad()
        flops.append(traced[module.resting].flops)
    kinds = traced.values()
    return Traced(
        max(each.activations for each in kinds),
        max(each.forward for each in kinds),
        max(each.backward for each in kinds),
        fmean(flops[1:]),
    )


def _trace(
    module: Distillation, plugin: Precision, batch_size: int, networks: Iterable[nn.Module]
) -> Traced:
    kept, memory = KeptForBackward(tensors_of(*networks)), LiveMemory()
    with memory:
        with plugin.forward_context(), kept():
            loss = module.loss(module.draw(batch_size, Generator().manual_seed(0))).loss
        activations, forward = kept.release(), memory.peak
        memory.restart()
        loss.backward()
    return Traced(activations, forward, memory.peak, memory.flops)
