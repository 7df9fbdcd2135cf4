"""What a training step costs, before it is run: parameters, evaluations, FLOPs and memory, from a
step on tensors without data.

The step is the module's own, run once under FakeTensorMode: shapes, dtypes and lifetimes are real,
the numbers are not computed and take no memory. So the activations are counted, not guessed, for
any teacher that such tensors can pass through.
"""

import copy
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from freeflow_lightning.nets import SiT
from freeflow_lightning.nets.sit import SIZES
from freeflow_lightning.profiling.operations import OPERATIONS
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.teachers import SiTVelocity, Teacher, VelocityTeacher
from freeflow_lightning.teachers.base import Network
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
    """Run one training step of `make()` on tensors without data, and count.

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
        module.skip_idle_rows = (
            False  # tensors without data select no rows; and the most is what memory must hold
        )
        networks = {"teacher": module.teacher, **module.networks()}
        _renew(networks.values(), torch.bfloat16 if isinstance(plugin, HalfPrecision) else None)
        owned = (
            module.tensors_by_network()
        )  # an adapter sits in the teacher's layers and counts as its network's
        weights = {name: _bytes(tensors) for name, tensors in owned.items()}
        wide = {
            tensor: max(tensor.element_size(), 4) for tensor in tensors_of(module.trained)
        }  # averages are never narrow
        weights |= (
            {"average": averages * sum(tensor.numel() * size for tensor, size in wide.items())}
            if averages
            else {}
        )
        optimizer = module.configure_optimizers()
        groups = [_bytes(group["params"]) for group in optimizer.param_groups]
        masters = isinstance(optimizer, MasterAdam)
        gradients = _bytes(
            p
            for network in module.networks().values()
            for p in network.parameters()
            if p.requires_grad
        )
        try:
            activations, forward, backward, flops = _trace(
                module, plugin, batch_size, networks.values()
            )
        except Exception as error:
            raise ValueError(
                f"the step cannot be traced without data ({type(error).__name__}: {error}): the "
                "teacher's velocity must be made of torch operations that do not look at values"
            ) from error
    state = (3 if masters else 2) * sum(groups)
    standing = sum(weights.values()) + state
    return Costs(
        batch_size=batch_size,
        precision=precision,
        parameters={
            name: sum(p.numel() for p in tensors if isinstance(p, nn.Parameter))
            for name, tensors in owned.items()
        },
        evaluations=module.evaluations_per_sample(),
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=activations,
        peaks={
            "forward": standing + gradients + forward,
            "backward": standing + backward,
            "update": standing + gradients + max(groups) + (sum(groups) if masters else 0),
        },
        flops=flops / batch_size,
    )


def sit_teacher(size: SizeName, image_size: int) -> Teacher:
    """A SiT of a published size with weights as initialised, for its costs: not for training from.

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


def without_data(module: Network) -> Network:
    """A copy of a module for use inside `estimate`'s `make`: its weights have shapes and no data."""
    with no_data() as mode, FakeCopyMode(mode):
        return copy.deepcopy(module)


@contextmanager
def no_data() -> Iterator[FakeTensorMode]:
    """Tensors made inside have shapes and dtypes, and no data."""
    staying = patch.object(
        nn.Module, "to", lambda module, *_, **__: module
    )  # such tensors refuse it; peft moves adapters
    with warnings.catch_warnings(), staying, FakeTensorMode(allow_non_fake_inputs=True) as mode:
        warnings.filterwarnings(
            "ignore", "Accessing the data pointer of FakeTensor"
        )  # torch's own deepcopy does
        yield mode


def tensors_of(*modules: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


class KeptForBackward:
    """Counts the storages that autograd saves, except the given tensors'. Each counts once, however
    often it is saved.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {_key(tensor) for tensor in weights}
        self._storages: dict[int, torch.UntypedStorage] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The context of the forward pass."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        if _key(tensor) not in self._weights:
            self._storages[_key(tensor)] = (
                tensor.untyped_storage()
            )  # held: its address must not be given to another
        return tensor

    def release(self) -> int:
        """The bytes; the storages may go from now on."""
        size = sum(storage.nbytes() for storage in self._storages.values())
        self._storages.clear()
        return size


class LiveMemory(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end; counts bytes alive, their
    peak, and FLOPs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.flops = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet(
            (args, kwargs), born=False
        )  # what is older than the count is not counted, nor are views of it
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in OPERATIONS:
            self.flops += OPERATIONS[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        self._meet(result, born=True)
        return result

    def _meet(self, tree: Any, *, born: bool) -> None:
        for tensor in tree_iter(tree):
            if (
                isinstance(tensor, Tensor)
                and id(storage := tensor.untyped_storage()) not in self._seen
            ):
                self._follow(storage, storage.nbytes() if born else 0)

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        name = id(storage)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def gone(_: Any) -> None:
            self.alive -= size
            del self._seen[name]

        self._seen[name] = weakref.ref(storage, gone)

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.alive


def _trace(
    module: Distillation, plugin: Precision, batch_size: int, networks: Iterable[nn.Module]
) -> tuple[int, int, int, int]:
    """Bytes kept for the backward pass, peaks of forward and backward beside weights and old
    gradients, FLOPs.
    """
    kept, memory = KeptForBackward(tensors_of(*networks)), LiveMemory()
    with memory:
        with plugin.forward_context(), kept():
            loss = _loss(module, batch_size)
        activations, forward = kept.release(), memory.peak
        memory.restart()
        loss.backward()
    return activations, forward, memory.peak, memory.flops


def _loss(module: Distillation, batch_size: int) -> Tensor:
    return module.loss(module.draw(batch_size, Generator().manual_seed(0))).loss


def _renew(modules: Iterable[nn.Module], dtype: torch.dtype | None) -> None:
    """Give every parameter and buffer a storage of its own, in the dtype if one is given.

    Views of what deepcopy made of tensors without data have other storages, so a saved view of a
    weight would not be known for one; and such tensors refuse module.to(dtype).
    """
    fresh: dict[int, Tensor] = {}

    def renewed(x: Tensor) -> Tensor:
        kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
        made = torch.empty(x.shape, dtype=kind)
        return fresh.setdefault(
            id(x), nn.Parameter(made, x.requires_grad) if isinstance(x, nn.Parameter) else made
        )

    held: list[Tensor] = []  # ids must not be given again
    for module in modules:
        for part in module.modules():
            for name, x in [
                *part.named_parameters(recurse=False),
                *part.named_buffers(recurse=False),
            ]:
                held.append(x)
                setattr(part, name, renewed(x))


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the tensors' storages, each once."""
    return sum({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
