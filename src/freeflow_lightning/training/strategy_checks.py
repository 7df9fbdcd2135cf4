"""The strategies and precisions that are refused, each with what to use instead."""

from pathlib import Path

from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)

from freeflow_lightning.training.strategies import FSDP2

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


def check_strategy(strategy: Strategy, precision: str) -> None:
    """Refuse what would train wrongly (Raises: ValueError that names the alternative)."""
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(refusal_of_strategy("fsdp"))
    if isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(refusal_of_strategy("deepspeed"))
    if isinstance(strategy, ModelParallelStrategy):
        tensor_parallel = strategy.device_mesh["tensor_parallel"].size()
        if tensor_parallel > 1:
            raise ValueError(
                f"ModelParallelStrategy with tensor_parallel_size {tensor_parallel}: no network "
                "here is split within a layer, and gradients would not be averaged over these "
                "processes; use --trainer.strategy fsdp2"
            )
        if precision == "bf16-true":
            raise ValueError(
                "bf16-true under fsdp2 would keep no float32 weights: use --trainer.precision "
                "bf16-mixed, whose weights, gradients and optimizer state are float32 shards, "
                "and whose matrix products are bfloat16"
            )
    if precision not in PRECISIONS:
        half = "float16 has too small a range for residuals and their gradients without loss scaling, which here would clip "
        why = (
            half + "and check scaled gradients"
            if "16" in precision and "bf" not in precision
            else "it has not been tried"
        )
        raise ValueError(
            f"expected --trainer.precision among {', '.join(PRECISIONS)}, got {precision}: {why}; "
            f"use bf16-mixed"
        )


def check_reader(strategy: Strategy, checkpoint: str | Path | None) -> None:
    """Refuse to load by a strategy that reads files itself and may run code from them (Raises:
    ValueError).
    """
    if (
        checkpoint
        and isinstance(strategy, ModelParallelStrategy)
        and not isinstance(strategy, FSDP2)
    ):
        raise ValueError(
            f"{checkpoint}: Lightning's {type(strategy).__name__} unpickles the folders that it "
            "reads, which can run code; use --trainer.strategy fsdp2, which reads them as "
            "tensors and plain values"
        )


def refusal_of_strategy(name: str) -> str:
    """Why a strategy of this name is not supported, and which one is."""
    why = {
        "fsdp": "it wraps networks whole, clips no gradient norms per network and breaks forward-mode derivatives",
        "deepspeed": "it owns gradients and optimizer, which are clipped and averaged per network here",
    }
    return f"--trainer.strategy {name} is not supported: {why[name]}; use --trainer.strategy fsdp2 (sharded) or ddp"
