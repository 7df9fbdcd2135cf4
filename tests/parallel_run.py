"""Runs of a tiny SiT, one after the other, for test_strategies.py, which starts the processes."""

import errno
import os
from collections.abc import Sequence

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.tensor import DTensor

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.callbacks import (
    HealthMonitor,
    PeriodicFID,
    PostHocEMA,
    SampleGrid,
    StudentEMA,
    TrajectoryError,
)
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction
from freeflow_lightning.teachers import SiTVelocity, VelocityTeacher
from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO, CheckpointWriteError
from freeflow_lightning.training.gather_full import gather_full
from freeflow_lightning.training.strategies import FSDP2
from nets.random_weights import tiny_sit
from tiny import data, shaken, trainer

PREDICTIONS = {"discrete": DiscretePrediction(4), "continuous": ContinuousPrediction()}


def teacher() -> VelocityTeacher:
    net = tiny_sit(3)
    return VelocityTeacher(SiTVelocity(net), net.sample_shape, net.num_classes)


def module(prediction: str = "discrete", **settings) -> FreeFlowModule:
    """Adam's eps is large, or gradients that are 0 but for rounding (those of key biases) would become steps."""
    torch.manual_seed(0)
    fixed = {"student_lr": 1e-3, "auxiliary_lr": 2e-3, "check_teacher": False, "eps": 1e-3}
    made = FreeFlowModule(teacher(), prediction=PREDICTIONS[prediction], **fixed, **settings)
    for seed, network in enumerate(made.networks().values()):
        shaken(network.embedders, seed, 0.1)  # or delta and gamma would have no effect yet
    return made


class Seen(Callback):
    """What a step logged."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        names = ("correction/lambda", "gradient/student", "gradient/auxiliary")
        self.figures.append(
            {
                name: float(trainer.callback_metrics[name])
                for name in names
                if name in trainer.callback_metrics
            }
        )


def run(
    name: str,
    strategy: str = "auto",
    steps: int = 4,
    size: int = 8,
    accumulate: int = 1,
    clip: float | None = None,
    resume: str | None = None,
    validate: bool = False,
    sharded: bool = False,
    precision: str = "32-true",
    decays: Sequence[float] = (0.9,),
    lengths: Sequence[float] = (),
    settings: dict | None = None,
    full_rank: int | None = None,
) -> None:
    if full_rank == int(os.environ.get("RANK", "0")):
        FileSystemWriter.write_data = find_no_space
    m, seen = module(**(settings or {})), Seen()
    watchers = [
        SampleGrid(3, steps=2),
        TrajectoryError(8, 2, 4),
        HealthMonitor(count=8, steps=2),
        PeriodicFID(
            FrechetDistance(FlatFeatures(48)), reference_samples=101, steps=2, cache=f"cache_{name}"
        ),
    ]
    averages = [StudentEMA(decays), *([PostHocEMA(lengths, 1)] if lengths else [])]
    keep = ModelCheckpoint(
        "checkpoints", name, every_n_train_steps=steps, enable_version_counter=False
    )
    made = trainer(
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=FSDP2(save_distributed_checkpoint=True) if sharded else strategy,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        precision=precision,
        enable_checkpointing=True,
        callbacks=[*averages, seen, *(watchers if validate else []), keep],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=name,
    )
    prior = data(
        batch_size=size,
        length=steps * accumulate,
        val_samples=51 if validate else 0,
        val_batch_size=8,
    )
    figures = made.validate(m, prior, verbose=False)[0] if validate else {}
    if full_rank is not None:
        with pytest.raises(CheckpointWriteError) as refused:
            made.fit(m, prior, ckpt_path=resume)
        torch.save({"error": str(refused.value)}, f"{name}_{made.global_rank}.pt")
        return
    made.fit(m, prior, ckpt_path=resume)
    weights = {key: gather_full(value.detach()) for key, value in m.state_dict().items()}
    held = {
        label: sum(local(p).numel() for p in net.parameters()) for label, net, _ in m.summary_rows()
    }
    torch.save(
        {"weights": weights, "seen": seen.figures, "figures": figures, "held": held},
        f"{name}_{made.global_rank}.pt",
    )


def find_no_space(*_):
    """In the place of the writer of one process's share."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def run_each(runs: list[dict]) -> None:
    for options in runs:
        run(**options)
