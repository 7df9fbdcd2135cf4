"""Adam, with float32 weights of its own for networks whose weights are narrower."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from freeflow_lightning.flow import falling_rate


def adam(groups: list[dict[str, Any]], **settings: Any) -> Adam:
    """Fused Adam; MasterAdam where any weight is narrower than float32."""
    narrow = any(parameter.element_size() < 4 for group in groups for parameter in group["params"])
    return (MasterAdam if narrow else Adam)(groups, fused=True, **settings)


def decay_rates(optimizer: torch.optim.Optimizer, decay_steps: int, total: float) -> LRScheduler:
    """Let the learning rates fall to 0 over the last steps of a run, along half a cosine.

    Args:
        optimizer: whose rates fall.
        decay_steps: over how many steps, at least 1; over all of a shorter run, which is warned of.
        total: steps of the run.

    Raises:
        ValueError: a run without an end.
    """
    if math.isinf(total):
        raise ValueError("lr_decay_steps needs a run that ends: set --trainer.max_steps")
    if decay_steps > total:
        rank_zero_warn(
            f"lr_decay_steps={decay_steps} is longer than this run of {total:.0f} steps: the rates "
            "fall from its first step"
        )
    decay = min(decay_steps, int(total))
    return LambdaLR(optimizer, lambda step: falling_rate(step, int(total), decay))


def trained_by(optimizer: torch.optim.Optimizer) -> list[list[nn.Parameter]]:
    """Return the networks' parameters in each of an optimizer's groups: those whose gradients it
    reads.
    """
    if isinstance(optimizer, MasterAdam):
        return optimizer.narrow
    return [group["params"] for group in optimizer.param_groups]


SETTINGS = ("lr", "betas", "eps", "weight_decay")
"""Of an optimizer, as a user gives them: numbers that may be changed while the run goes on."""


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each group of parameters, the learning rate before any schedule.

    >>> settings_of(torch.optim.SGD([torch.zeros(1)], lr=0.5))
    [{'lr': 0.5, 'weight_decay': 0}]
    """
    settings = []
    for group in optimizer.param_groups:
        configured = group | {"lr": group.get("initial_lr", group["lr"])}
        settings.append({name: configured[name] for name in SETTINGS if name in configured})
    return settings


def apply_changes(
    optimizer: torch.optim.Optimizer,
    then: list[dict[str, Any]],
    now: list[dict[str, Any]],
    schedules: Iterable[LRScheduler] = (),
) -> list[str]:
    """Give a restored optimizer those settings that differ from its checkpoint's, and no others.

    A learning rate that a schedule has moved is moved in proportion, and the schedule goes on from
    the new one.

    Args:
        optimizer: with the state and the settings of the checkpoint.
        then: what was configured when the checkpoint was written, by group.
        now: what is configured.
        schedules: of learning rates, restored too.

    Returns:
        A line for each change.
    """
    lines: list[str] = []
    for k, (group, old, new) in enumerate(zip(optimizer.param_groups, then, now, strict=True)):
        owner = group.get("name", f"group {k}")
        for name, value in new.items():
            if name not in old or _is_same(old[name], value):
                continue
            lines.append(f"{name} {value} (it was {old[name]}) of {owner}")
            if name != "lr":
                group[name] = value
                continue
            group["lr"] = _move_rate(group["lr"], old["lr"], value)
            if "initial_lr" in group:
                group["initial_lr"] = value
                _restart_schedules(schedules, optimizer, k, value)
    return lines


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two settings are the same: a pair is, whether a list or a tuple holds it."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return list(a) == list(b)
    return bool(a == b)


def _move_rate(rate: float, old: float, new: float) -> float:
    """Return a learning rate where a schedule has brought it from `old`, had it started from
    `new`.
    """
    return new if old in (rate, 0) else rate * (new / old)


def _restart_schedules(
    schedules: Iterable[LRScheduler],
    optimizer: torch.optim.Optimizer,
    group: int,
    rate: float,
) -> None:
    """Let an optimizer's schedules, and those that they are made of, start from another rate."""
    for schedule in schedules:
        parts = vars(schedule)
        if parts.get("optimizer") is optimizer and "base_lrs" in parts:
            parts["base_lrs"] = list(parts["base_lrs"])  # a checkpoint's, which is not ours to edit
            parts["base_lrs"][group] = rate
        _restart_schedules(parts.get("_schedulers", ()), optimizer, group, rate)


class MasterAdam(Adam):
    """Adam on float32 copies of the weights, which are rounded into the weights after each step.

    A step of 3e-5 is below the spacing of bfloat16 numbers above 0.004: added to the weights
    themselves it would be lost. The copies are in the optimizer's state dict, so that a resumed run
    goes on from them.

    Args:
        groups: parameter groups, as Adam takes them.
        settings: Adam's.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        self.narrow: list[list[nn.Parameter]] = [list(group["params"]) for group in groups]
        self._narrow: list[nn.Parameter] = [p for group in self.narrow for p in group]
        super().__init__(
            [
                group
                | {"params": [nn.Parameter(p.detach().float().clone()) for p in group["params"]]}
                for group in groups
            ],
            **settings,
        )

    @property
    def masters(self) -> dict[nn.Parameter, Tensor]:
        """The float32 weights by the network's parameter."""
        copies = (copy for group in self.param_groups for copy in group["params"])
        return dict(zip(self._narrow, copies, strict=True))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of Adam from the gradients of the narrow weights; the closure's value, if
        there is one.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for parameter, master in self.masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()
        super().step()
        self._round()
        for master in self.masters.values():
            master.grad = None
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self._narrow:
            parameter.grad = None

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, master in self.masters.items():
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """Adam's, with the float32 weights under "masters" in the order of the parameters."""
        return super().state_dict() | {
            "masters": [master.detach() for master in self.masters.values()]
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adam's; from the state of a run whose weights were float32, the copies start at the
        weights as they are now.
        """
        super().load_state_dict(
            {key: value for key, value in state_dict.items() if key != "masters"}
        )
        held = state_dict.get("masters", self._narrow)
        for master, value in zip(self.masters.values(), held, strict=True):
            master.copy_(value)
        self._round()
