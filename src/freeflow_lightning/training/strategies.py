"""FSDP2: a strategy that shards networks while every process draws rows of its own."""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from freeflow_lightning.training.checkpoint_files import write_whole_folder
from freeflow_lightning.training.checkpoint_folder import read_meta
from freeflow_lightning.training.checkpoint_reader import read_checkpoint_file
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
    sharded_keys,
)


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
        with write_whole_folder(
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
        """Return each process's shards from the folder of a sharded run; Lightning's own reader
        would unpickle parts of it.
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
        """By name for a folder; as torch's optimizers write it, on the first process, for a
        file.
        """
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
    """Return what training goes on from (Raises: ValueError for weights alone, from which it would
    begin anew).
    """
    if not checkpoint.get("optimizer_states"):
        raise ValueError(
            f"{path} holds weights without the optimizer's state, so that training cannot go on "
            "from it: give a checkpoint that was saved with save_weights_only: false"
        )
    states: list[dict[str, Any]] = checkpoint["optimizer_states"]
    return states
