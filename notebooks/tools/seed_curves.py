"""FID to the teacher and endpoint error over training, mean and spread of several seeds.

    python notebooks/tools/seed_curves.py OUTPUT.png RUN[,NEXT_PART] [RUN[,NEXT_PART] ...]

A RUN is a run's folder (runs/NAME or runs/NAME/version_N); parts that went on from each other are joined by commas. All runs
are to have been measured at the same steps. The dashed line is the floor, what the teacher's samples have to each other;
dotted ones are where a part ends.
"""

import sys
from pathlib import Path

import torch

from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.colors import STUDENT, TEACHER
from freeflow_lightning.training.run_folder import newest
from freeflow_lightning.training.run_loggers import read_metrics

FIGURES = {
    "fid/student": ("FID to the teacher", "log"),
    "error/endpoint": ("endpoint error", "linear"),
}


def read_parts(parts: list[Path]) -> list[dict[str, float]]:
    """The measured rows of a run's parts; the first has learnt nothing, whatever its step is called."""
    rows = [
        row for part in parts for row in read_metrics(part / "metrics.csv") if "fid/student" in row
    ]
    return [row | {"step": row["step"] + (row["step"] > 0)} for row in rows]


def main() -> None:
    output, *runs = sys.argv[1:]
    parts = [[newest(Path(part)) for part in run.split(",")] for run in runs]
    seeds = [read_parts(each) for each in parts]
    steps = [row["step"] for row in seeds[0]]
    if any([row["step"] for row in seed] != steps for seed in seeds):
        raise ValueError("expected runs that were measured at the same steps")
    figure, axes = plots.canvas(len(FIGURES), figsize=(6.5, 5), sharex=True)
    for axis, (name, (words, scale)) in zip(axes[:, 0], FIGURES.items(), strict=True):
        values = torch.tensor([[row[name] for row in seed] for seed in seeds])
        mean, spread = values.mean(0), values.std(0) if len(seeds) > 1 else None
        axis.errorbar(steps, mean, spread, color=STUDENT, marker="o", markersize=4, capsize=2)
        axis.set_yscale(scale)
        axis.set_ylabel(words)
        axis.grid(alpha=0.3)
        for part in parts[0][:-1]:
            axis.axvline(read_parts([part])[-1]["step"], color="black", linestyle=":", linewidth=1)
    floor = seeds[0][-1].get("fid/floor")
    if floor is not None:
        axes[0, 0].axhline(floor, color=TEACHER, linestyle="--", label="floor: teacher to teacher")
        axes[0, 0].legend(fontsize=8)
    axes[-1, 0].set_xlabel("training steps")
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
