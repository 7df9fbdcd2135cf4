"""FeatureTable: what an evaluation keeps of N samples: exact moments of all, features of those that
it compares one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts
from freeflow_lightning.metrics.features import FeatureNetwork
from freeflow_lightning.metrics.moments import Moments, in_float64, mean_and_covariance

MOMENTS = ("features", "spatial")
"""The outputs of a feature network whose moments are kept."""


class FeatureTable(NamedTuple):
    """N samples as a metric sees them.

    Args:
        n: N; 0 where only moments are known, from a file that does not say.
        moments: of "features", and of "spatial" (sFID) where the network has it.
        rows: of the samples kept, in the order of their index: "index" [M], "features" [M, d], and
            where known "labels" [M] (the class asked for) and "logits" [M, classes].
    """

    n: int
    moments: dict[str, Moments]
    rows: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it under flat names, to be written to a file."""
        flat = {
            f"moments/{name}/{k}": v
            for name, m in self.moments.items()
            for k, v in m._asdict().items()
        }
        return (
            flat
            | {f"rows/{name}": value for name, value in self.rows.items()}
            | {"n": torch.tensor(self.n)}
        )

    @classmethod
    def of_tensors(cls, flat: dict[str, Tensor]) -> "FeatureTable":
        """Return what `tensors` has taken apart (Raises: KeyError where something is missing)."""
        names = dict.fromkeys(key.split("/")[1] for key in flat if key.startswith("moments/"))
        moments = {
            n: Moments(flat[f"moments/{n}/mean"], flat[f"moments/{n}/covariance"]) for n in names
        }
        rows = {
            key.removeprefix("rows/"): value
            for key, value in flat.items()
            if key.startswith("rows/")
        }
        return cls(int(flat["n"]), moments, rows)


class TableSums(NamedTuple):
    """One process's part of a table: sums instead of moments, so that parts add up."""

    n: int
    sums: dict[str, tuple[Tensor, Tensor]]
    rows: dict[str, Tensor]


class TableBuilder:
    """Fills a table batch by batch.

    Args:
        network: FeatureNetwork, or any module with `num_features` that maps samples [B, ...] to [B,
            d].
        kept: samples with an index below this are kept as rows; the others count in the moments
            only.

    >>> from freeflow_lightning.metrics import FlatFeatures
    >>> builder = TableBuilder(FlatFeatures(1), kept=1)
    >>> builder.add(torch.arange(2), torch.tensor([[1.0], [3.0]]))
    >>> table = merge_tables([builder.part()])
    >>> table.moments["features"].mean, table.rows["features"]
    (tensor([2.], dtype=torch.float64), tensor([[1.]]))
    """

    def __init__(self, network: nn.Module, kept: int) -> None:
        check_counts(0, kept=kept)
        self.network = network
        self.kept = kept
        self._count = 0
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._rows: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def add(self, index: Tensor, samples: Tensor, labels: Tensor | None = None) -> None:
        """Add samples, [B, ...] as the network takes them, with their index [B] and class [B].

        Raises:
            ValueError: features that are not finite, or logits of other classes than the network's.
        """
        network = self.network
        outputs = (
            network.see(samples)
            if isinstance(network, FeatureNetwork)
            else {"features": network(samples)}
        )
        for name in MOMENTS:
            if name in outputs:
                f = in_float64(outputs[name])
                if not bool(torch.isfinite(f).all()):
                    raise ValueError(
                        f"{name} of the samples are not finite: look at the samples, then at the "
                        f"feature network"
                    )
                first, second = self._sums.get(name, (0, 0))
                self._sums[name] = first + f.sum(0), second + f.mT @ f
        self._count += len(index)
        keep = index < self.kept
        rows = {name: value for name, value in outputs.items() if name != "spatial"} | (
            {} if labels is None else {"labels": labels}
        )
        self._rows.append(
            {"index": index[keep]} | {name: v[keep.to(v.device)].cpu() for name, v in rows.items()}
        )

    def part(self) -> TableSums:
        """Return what has been added so far."""
        sums = {name: (first.cpu(), second.cpu()) for name, (first, second) in self._sums.items()}
        rows = {
            name: torch.cat([part[name] for part in self._rows])
            for name in (self._rows[0] if self._rows else ())
        }
        return TableSums(self._count, sums, rows)


def merge_tables(parts: Sequence[TableSums]) -> FeatureTable:
    """Return the table of several processes' parts; rows in the order of their index.

    Raises:
        ValueError: fewer than two samples.
    """
    parts = [part for part in parts if part.n]
    count = sum(part.n for part in parts)
    if count < 2:
        raise ValueError(f"expected at least two samples to compare, got {count}")
    stacked = {
        name: [torch.stack(s).sum(0) for s in zip(*(p.sums[name] for p in parts), strict=True)]
        for name in parts[0].sums
    }
    moments = {
        name: mean_and_covariance(first, second, count) for name, (first, second) in stacked.items()
    }
    rows = {name: torch.cat([part.rows[name] for part in parts]) for name in parts[0].rows}
    order = rows["index"].argsort()
    return FeatureTable(
        count, moments, {name: value[order].contiguous() for name, value in rows.items()}
    )
