"""The sharding of networks by FSDP2, block by block."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from freeflow_lightning.nets import Adapter, blocks
from freeflow_lightning.training.meta_init import materialize


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
                # a root too: the average reads its shards
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
