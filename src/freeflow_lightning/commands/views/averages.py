"""The averages of a checkpoint beside each other, as a table on the screen."""

from math import isnan

from rich.console import Console
from rich.table import Table

from freeflow_lightning.evaluation.compare_averages import AverageRow


def show_averages(rows: list[AverageRow], num_samples: int, guidance: float) -> None:
    """Print the table, in which the lowest FID is marked.

    Args:
        rows: one for each average.
        num_samples: of student and teacher.
        guidance: of both.
    """
    title = f"averages: FID to {num_samples} of the teacher's samples, guidance {guidance:g}"
    table = Table("average", "FID", "95 % interval", "endpoint error", "recognised", title=title)
    best = min(rows, key=lambda row: row.fid.value)
    for row in rows:
        interval = f"{row.fid.low:.4g} .. {row.fid.high:.4g}" if not isnan(row.fid.low) else ""
        seen = f"{row.recognised.value:.1%}" if row.recognised else ""
        mark = " (lowest)" if row is best else ""
        table.add_row(
            row.average, f"{row.fid.value:.4g}{mark}", interval, f"{row.endpoint.value:.4g}", seen
        )
    Console().print(table)
