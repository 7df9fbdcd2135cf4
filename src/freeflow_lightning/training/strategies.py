"""Strategies: FSDP2 with every process on rows of its own, the sharding of networks, and what is
refused.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from freeflow_lightning.nets import Adapter, blocks
from freeflow_lightning.training.checkpoint_files import read_checkpoint_file, written_whole
from freeflow_lightning.training.resumed_averages import (
    Averaged,
    match_averages,
    only_saved_averages,
)
from freeflow_lightning.training.sharded_checkpoint import (
    by_index,
    by_name,
    check_keys,
    fill_from_parts,
    parameter_names,
    read_meta,
    sharded_keys,
)

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism: each process draws rows of its own and holds a share of every
    network's weights.

    Student, auxiliary network, averages, the frozen teacher, gradients and Adam's state are sharded
    block by block. The Trainer's name for it is `fsdp2`. (Lightning's ModelParallelStrategy takes
    the processes of a node for tensor parallelism unless told otherwise: the same rows everywhere,
    and gradients that are never averaged.)

    Args:
        save_distributed_checkpoint: write a folder to which each process adds its share, rather
            than one file that the first process collects in its memory. Both are read by every
            strategy, every number of processes and FlowMap.
        process_group_backend: nccl or gloo; chosen by the device if not given.
        timeout: of collective operations.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = (
            self.num_nodes * self.num_processes,
            1,
        )
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        with written_whole(
            Path(self.broadcast(str(filepath))), self.barrier, first=self.is_global_zero
        ) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = self.broadcast(str(checkpoint_path))
        assert self.model is not None
        if Path(path).is_dir():
            return self._load_folder(Path(path))
        checkpoint = read_checkpoint_file(path, mmap=True)
        weights = checkpoint.pop("state_dict")
        if isinstance(self.lightning_module, Averaged):
            match_averages(self.lightning_module, weights)
        check_keys(self.model, weights.keys(), path)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, weights, options=options)
        assert self.lightning_module is not None
        trains = self.lightning_module.trainer.state.fn == TrainerFn.FITTING
        for optimizer, state in (
            zip(self.optimizers, optimizer_states(checkpoint, path), strict=True) if trains else ()
        ):
            named = by_name(state, parameter_names(optimizer, self.model))
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=named, options=options)
        return checkpoint

    def _averages_of(self, keys: set[str]) -> AbstractContextManager[set[str]]:
        """While a sharded checkpoint with these keys is read, the module has the averages in it."""
        module = self.lightning_module
        if not isinstance(module, Averaged):
            return nullcontext(keys)
        return only_saved_averages(module, keys)

    def _load_folder(self, folder: Path) -> dict[str, Any]:
        """Each process's shards from the folder of a sharded run; Lightning's own reader would
        unpickle parts of it.
        """
        assert self.model is not None
        with self._averages_of(sharded_keys(folder)) as keys:
            check_keys(self.model, keys, folder)
            weights = {"state_dict": get_model_state_dict(self.model)}
            fill_from_parts(weights, folder)
            self.model.load_state_dict(weights["state_dict"])
        for k, optimizer in enumerate(self.optimizers):
            state = {f"optimizer_{k}": get_optimizer_state_dict(self.model, optimizer)}
            fill_from_parts(state, folder)
            named = state[f"optimizer_{k}"]
            set_optimizer_state_dict(
                self.model,
                optimizer,
                optim_state_dict=named,
                options=StateDictOptions(cpu_offload=True),
            )
        return read_meta(folder)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """By name for a folder; as torch's optimizers write it, on the first process, for a file."""
        assert self.model is not None
        own = getattr(optimizer, "_optimizer", optimizer)  # Lightning's wrapper
        options = StateDictOptions(
            full_state_dict=not self._save_distributed_checkpoint, cpu_offload=True
        )
        state: dict[str, Any] = get_optimizer_state_dict(self.model, own, options=options)
        if self._save_distributed_checkpoint or not state:
            return state
        return by_index(state, parameter_names(own, self.model))


StrategyRegistry.register(
    "fsdp2",
    FSDP2,
    "Fully sharded data parallelism (FSDP2) of student, auxiliary network and teacher",
)


def optimizer_states(checkpoint: dict[str, Any], path: str | Path) -> list[dict[str, Any]]:
    """What training goes on from (Raises: ValueError for weights alone, from which it would begin
    anew).
    """
    if not checkpoint.get("optimizer_states"):
        raise ValueError(
            f"{path} holds weights without the optimizer's state, so that training cannot go on "
            "from it: give a checkpoint that was saved with save_weights_only: false"
        )
    states: list[dict[str, Any]] = checkpoint["optimizer_states"]
    return states


def check_strategy(strategy: Strategy, precision: str) -> None:
    """Refuse what would train wrongly (Raises: ValueError that names the alternative)."""
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(refusal_of_strategy("fsdp"))
    if isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(refusal_of_strategy("deepspeed"))
    if isinstance(strategy, ModelParallelStrategy):
        tensor_parallel = strategy.device_mesh["tensor_parallel"].size()
        if tensor_parallel > 1:
            raise ValueError(
                f"ModelParallelStrategy with tensor_parallel_size {tensor_parallel}: no network "
                "here is split within a layer, and gradients would not be averaged over these "
                "processes; use --trainer.strategy fsdp2"
            )
        if precision == "bf16-true":
            raise ValueError(
                "bf16-true under fsdp2 would keep no float32 weights: use --trainer.precision "
                "bf16-mixed, whose weights, gradients and optimizer state are float32 shards, "
                "and whose matrix products are bfloat16"
            )
    if precision not in PRECISIONS:
        half = "float16 has too small a range for residuals and their gradients without loss scaling, which here would clip "
        why = (
            half + "and check scaled gradients"
            if "16" in precision and "bf" not in precision
            else "it has not been tried"
        )
        raise ValueError(
            f"expected --trainer.precision among {', '.join(PRECISIONS)}, got {precision}: {why}; "
            f"use bf16-mixed"
        )


def check_reader(strategy: Strategy, checkpoint: str | Path | None) -> None:
    """Refuse to load by a strategy that reads files itself and may run code from them (Raises:
    ValueError).
    """
    if (
        checkpoint
        and isinstance(strategy, ModelParallelStrategy)
        and not isinstance(strategy, FSDP2)
    ):
        raise ValueError(
            f"{checkpoint}: Lightning's {type(strategy).__name__} unpickles the folders that it "
            "reads, which can run code; use --trainer.strategy fsdp2, which reads them as "
            "tensors and plain values"
        )


def refusal_of_strategy(name: str) -> str:
    """Why a strategy of this name is not supported, and which one is."""
    why = {
        "fsdp": "it wraps networks whole, clips no gradient norms per network and breaks forward-mode derivatives",
        "deepspeed": "it owns gradients and optimizer, which are clipped and averaged per network here",
    }
    return f"--trainer.strategy {name} is not supported: {why[name]}; use --trainer.strategy fsdp2 (sharded) or ddp"


def shard(networks: Iterable[nn.Module], mesh: DeviceMesh, missing: dict[Tensor, Tensor]) -> None:
    """Shard networks over a one-dimensional mesh in place, block by block; those that are sharded
    stay as they are.

    Weights without data are filled block by block before they are sharded.

    Raises:
        ValueError: a low-rank adapter, whose weights sit in somebody else's network, or trained
            weights that are not float32.
    """
    for network in networks:
        if any(p.requires_grad and p.element_size() < 4 for p in network.parameters()):
            raise ValueError(
                f"fsdp2 trains float32 weights, and the {type(network).__name__} in training has "
                "narrower ones: give the teacher dtype float32 and use --trainer.precision "
                "bf16-mixed"
            )
        backbone = (
            network.get_submodule("backbone")
            if "backbone" in dict(network.named_children())
            else network
        )
        if isinstance(backbone, Adapter):
            raise ValueError(
                "lora under fsdp2: adapters live in the layers of the teacher's backbone, which "
                "cannot be sharded for several owners; use --trainer.strategy ddp (the backbone "
                "is in memory once, in the teacher's dtype)"
            )
        for module in [*blocks(backbone), network]:
            if not isinstance(module, FSDPModule):
                materialize(module, missing)
                fully_shard(
                    module, mesh=mesh, reshard_after_forward=True
                )  # a root too: the average reads its shards


class copies_without_data(TorchFunctionMode):  # noqa: N801 (a context)
    """Inside, copies of tensors have a shape and no data: copy.deepcopy of a network takes no
    memory.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.clone:
            return torch.empty_like(args[0], device="meta")
        if func is Tensor.__deepcopy__:
            copy = torch.empty_like(args[0], device="meta")
            return args[1].setdefault(id(args[0]), copy)
        return func(*args, **(kwargs or {}))


def meta_sources(network: nn.Module, original: nn.Module) -> dict[Tensor, Tensor]:
    """The weights and buffers of a network that have no data, and those of the original with the
    same names.

    Raises:
        ValueError: a weight that the original does not have.
    """
    held = dict([*original.named_parameters(), *original.named_buffers()])
    found = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta and (name not in held or held[name].shape != tensor.shape):
            raise ValueError(
                f"meta_init: the teacher's backbone has no {name} of shape {list(tensor.shape)}; "
                f"leave it out"
            )
        if tensor.is_meta:
            found[tensor] = held[name].detach()
    return found


def materialize(module: nn.Module, missing: dict[Tensor, Tensor]) -> None:
    """Give the module's weights and buffers that have no data a copy of what they stand for."""
    for part in module.modules():
        for name, tensor in part.named_parameters(recurse=False):
            if tensor in missing:
                part.register_parameter(
                    name,
                    nn.Parameter(missing[tensor].to(tensor.dtype, copy=True), tensor.requires_grad),
                )
        for name, buffer in part.named_buffers(recurse=False):
            if buffer in missing:
                setattr(part, name, missing[buffer].to(buffer.dtype, copy=True))


def gather_full(tensor: Tensor) -> Tensor:
    """A tensor as it is on one process: the shards of all processes together. Every process has to
    ask.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
