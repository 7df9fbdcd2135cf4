"""StudentParts: what a recipe's own arguments say of its student, without the recipe."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from freeflow_lightning.nets import LoRA, SecondState, SplitHead
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.teachers.reading.declared import is_declared
from freeflow_lightning.training.networks import NetworkBuilder


class StudentParts:
    """Network, teacher and guidance of a student, from arguments that this package's recipes share.

    A recipe is a LightningModule, which takes seconds to import; a student that is sampled has no
    use for one. The arguments bear the names that they have in the recipes.

    Args:
        teacher: the frozen velocity field.
        network: velocity network that the student started from; the teacher's if not given.
        guidance_range: the gammas that it was trained for.
        evaluation_guidance: gamma of validation samples.
        scalar_scale: factor on delta and gamma before their frequency embeddings.
        time_module: path of the network's time embedding, where it is not found by name.
        lora: which networks are adapters, if any are.
        second_state: how the student takes a state beside its own, if it does.
        head: how the student is split into features and a head, if it is.
    """

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None,
        guidance_range: Sequence[float],
        evaluation_guidance: float,
        scalar_scale: float,
        time_module: str | None,
        lora: LoRA | None,
        second_state: SecondState | None = None,
        head: SplitHead | None = None,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.guidance_range = (guidance_range[0], guidance_range[1])
        self.evaluation_guidance = evaluation_guidance
        adapted = lora if lora is not None and "student" in lora.networks else None
        builder = NetworkBuilder(
            teacher,
            adapted,
            time_module,
            scalar_scale,
            meta_init=False,
            second_state=second_state,
            head=head,
        )
        self.student = builder.build(["student"], network)["student"]

    @classmethod
    def are_said(cls, config: Mapping[str, Any]) -> bool:
        """Return whether a config is of a recipe of this package, and leaves none of these
        arguments to its defaults.
        """
        parameters = inspect.signature(cls).parameters.values()
        needed = {p.name for p in parameters if p.default is inspect.Parameter.empty}
        is_ours = is_declared(config["class_path"])
        return is_ours and needed <= (config.get("init_args") or {}).keys()
