"""The networks of a distillation: student, auxiliary and averages, whole or as adapters."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from freeflow_lightning.nets import (
    Adapter,
    LoRA,
    ScalarConditioned,
    SecondState,
    SplitConditioned,
    SplitHead,
    StateConditioned,
    compile_blocks,
    device_of,
    recompute,
    time_embeddings,
)
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.meta_init import copies_without_data, meta_sources


@dataclass(frozen=True)
class NetworkBuilder:
    """Builds networks that start as the teacher does, or as a network of the user's own.

    Args:
        teacher: whose backbone adapters sit on, and whose network the others are copies of.
        lora: which networks are adapters; none if not given.
        time_module: path of the networks' time embedding, where it is not found by name.
        scalar_scale: factor on delta and gamma before their frequency embeddings.
        meta_init: build the networks without data.
        auxiliary_scalars: what the auxiliary network takes beside (x, t, condition).
        second_state: how the student takes a state beside its own; it takes none if not given.
        head: how the student is split into features and a head; it is whole if not given.
    """

    teacher: Teacher
    lora: LoRA | None
    time_module: str | None
    scalar_scale: float
    meta_init: bool
    auxiliary_scalars: tuple[str, ...] = ("gamma",)
    second_state: SecondState | None = None
    head: SplitHead | None = None

    def build(
        self, names: Sequence[str], network: nn.Module | None
    ) -> dict[str, ScalarConditioned]:
        """Return the networks of these names, "student" and "auxiliary".

        Args:
            names: which.
            network: what those that are no adapters start from; the teacher's if not given.

        Raises:
            ValueError: settings of which one has no effect.
        """
        adapted = [name for name in names if self.lora is not None and name in self.lora.networks]
        self._check_start(network, adapted)
        copied = [name for name in names if name not in adapted]
        backbones = self._copy(copied, network)
        for name in adapted:
            backbones[name] = self._adapt(name)
        return {name: self._condition(backbones[name], name) for name in names}

    def average(self, student: ScalarConditioned, name: str) -> nn.Module:
        """Return a copy of the student, or a new adapter if the student is a LoRA adapter."""
        if not isinstance(student.backbone, Adapter):
            return deepcopy(student)
        average = self._condition(self._adapt(name), "student").to(device_of(student))
        average.load_state_dict(student.state_dict())
        return average

    def checkpoint_activations(self, networks: Iterable[ScalarConditioned]) -> None:
        """Let the backward pass compute the activations of each block again."""
        for network in networks:
            owner = network.time_owner
            recompute(owner, list(time_embeddings(owner, self.time_module).values()))

    def compile(self, networks: Iterable[ScalarConditioned], backend: str) -> None:
        """Compile the blocks of the networks and of the teacher's backbone, each once."""
        owners = {network.time_owner for network in networks}
        for network in {*owners, *self.teacher_backbones()}:
            compile_blocks(network, backend)

    def teacher_backbones(self) -> list[nn.Module]:
        """Return the teacher's backbone; none of an analytic teacher."""
        try:
            return [self.teacher.backbone()]
        except ValueError:
            return []

    def meta_weights(self, networks: Iterable[nn.Module]) -> dict[Tensor, Tensor]:
        """Return the networks' weights that have no data yet, and the teacher's that they are
        copies of.
        """
        if not self.meta_init:
            return {}
        sources: dict[Tensor, Tensor] = {}
        for network in networks:
            sources |= meta_sources(network.get_submodule("backbone"), self.teacher.backbone())
        return sources

    def _check_start(self, network: nn.Module | None, adapted: Sequence[str]) -> None:
        if self.lora is not None and network is not None:
            raise ValueError("lora adapts the teacher's own backbone: leave network out")
        if self.lora is not None and not adapted:
            raise ValueError(
                "lora.networks names the auxiliary network alone, which these settings do not "
                "train: remove lora, or train an auxiliary network (FreeFlowModule: "
                "correction_fraction above 0)"
            )
        if self.meta_init and (network is not None or self.lora is not None):
            raise ValueError(
                "meta_init copies the teacher's own network: leave network and lora out"
            )

    def _copy(self, names: Sequence[str], network: nn.Module | None) -> dict[str, nn.Module]:
        """Return the network itself under the first name, and copies of it, before hooks are on
        it.
        """
        if not names:
            return {}
        with copies_without_data() if self.meta_init else nullcontext():
            start = self.teacher.network() if network is None else network
            return {name: start if name == names[0] else deepcopy(start) for name in names}

    def _adapt(self, name: str) -> Adapter:
        assert self.lora is not None
        base = self.teacher.backbone()
        return Adapter(base, name, self.lora, list(time_embeddings(base, self.time_module)))

    def _condition(self, backbone: nn.Module, name: str) -> ScalarConditioned:
        """Return the backbone with the scalars of a name; what is added is where the backbone is."""
        device = device_of(backbone)
        conditioned = self._wrap(backbone, name)
        return conditioned if device.type == "meta" else conditioned.to(device)

    def _wrap(self, backbone: nn.Module, name: str) -> ScalarConditioned:
        owner = backbone.base if isinstance(backbone, Adapter) else None
        settings = self.time_module, self.scalar_scale, owner
        if name == "student" and self.second_state is not None:
            return StateConditioned(backbone, *settings, self.second_state)
        if name == "student" and self.head is not None:
            return SplitConditioned(backbone, *settings, self.head)
        scalars = ("delta", "gamma") if name == "student" else self.auxiliary_scalars
        return ScalarConditioned(backbone, scalars, *settings)
