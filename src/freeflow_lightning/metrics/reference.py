"""Take the reference's statistics out of a metric and put them back: computed once, then read from a cache."""

import torch
from torch import Tensor
from torchmetrics import Metric

_PREFIX = "real_"


def reference_state(metric: Metric) -> dict[str, Tensor]:
    """A copy on the CPU of every state whose name starts with "real_", of any torchmetrics metric; lists are joined.

    These are the calling process's sums. In a distributed run call it within `with metric.sync_context():`.

    Raises:
        ValueError: a metric without such states, or with an empty list of features.

    >>> from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
    >>> metric = FrechetDistance(FlatFeatures(1))
    >>> metric.update(torch.ones(3, 1), real=True)
    >>> reference_state(metric)["real_features_num_samples"]
    tensor(3)
    """
    states = _reference_states(metric)
    empty = [name for name, value in states.items() if isinstance(value, list) and not value]
    if empty:
        raise ValueError(f"{type(metric).__name__} holds no reference in {empty}: update(images, real=True) first")
    return {
        name: (torch.cat(value) if isinstance(value, list) else value).detach().cpu().clone() for name, value in states.items()
    }


def load_reference_state(metric: Metric, state: dict[str, Tensor]) -> None:
    """Reset the metric, then give it the reference that `reference_state` took; nothing else than the reference is left.

    In a distributed run load it on one rank only: states are summed over the ranks. Keep the metric from forgetting it with
    `reset_real_features=False`.

    Raises:
        ValueError: states of another metric or another width of features.

    >>> from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
    >>> one, other = (FrechetDistance(FlatFeatures(1)) for _ in range(2))
    >>> one.update(torch.tensor([[0.0], [2.0]]), real=True)
    >>> load_reference_state(other, reference_state(one))
    >>> other.update(torch.tensor([[3.0], [5.0]]), real=False)
    >>> other.compute()
    tensor(9., dtype=torch.float64)
    """
    own = _reference_states(metric)
    if own.keys() != state.keys():
        raise ValueError(f"expected the states {sorted(own)} of {type(metric).__name__}, got {sorted(state)}")
    for name, value in own.items():
        if isinstance(value, Tensor) and value.shape != state[name].shape:
            raise ValueError(
                f"expected {name} of shape {tuple(value.shape)}, got {tuple(state[name].shape)}: "
                "the reference was made with another feature network"
            )
    metric.reset()  # torchmetrics keeps the last result until then
    for name, value in own.items():
        if isinstance(value, list):
            setattr(metric, name, [state[name].to(metric.device)])
        else:
            setattr(metric, name, state[name].to(device=value.device, dtype=value.dtype, copy=True))


def _reference_states(metric: Metric) -> dict[str, Tensor | list[Tensor]]:
    states = {name: value for name, value in metric.metric_state.items() if name.startswith(_PREFIX)}
    if not states:
        raise ValueError(
            f"{type(metric).__name__} has no state whose name starts with {_PREFIX!r}: it compares to no reference"
        )
    return states
