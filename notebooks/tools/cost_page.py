"""docs/cost.md: GPU-days and memory of the runs that ship as configs.

    python notebooks/tools/cost_page.py docs/cost.md                        # from estimates, a minute on a CPU
    python notebooks/tools/cost_page.py docs/cost.md --measured OUT/b.json  # with what gpu_check has measured

Evaluations, FLOPs and memory of a SiT are those of `freeflow inspect`: one training step on tensors without data. A
transformer of diffusers is counted in one forward pass without data, and its step in forward passes.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.profiling.hardware import PEAKS
from freeflow_lightning.profiling.step_memory import estimate, sit_teacher
from freeflow_lightning.training.atomic_write import write_text

GPU = "H100"
UTILISATIONS = (0.45, 0.30)
"""Shares of the peak: the goal, and what an untuned step may reach."""
GIB = 2**30
HEAD = """# What a run costs

Written by `notebooks/tools/cost_page.py`; do not edit.

**{kind}** GPU-days are steps x 256 samples x FLOPs per sample over the peak of one {gpu} ({peak:.0f} TFLOP/s,
bfloat16, dense), at 45 % of it, the goal, and at 30 %. Validation, the decoder of pictures and communication are not
counted. Evaluations are forward passes per training sample, of teacher / student / auxiliary network; the student's first
and the auxiliary's also run backwards.

| run | steps | evaluations | TFLOPs per sample | GPU-days at 45 % | at 30 % | measured | batch per GPU, memory |
|---|---:|---|---:|---:|---:|---|---|
"""
TAIL = """
Memory of the SiT runs is the peak of a step at bf16-mixed, as `freeflow inspect` estimates it: without the CUDA context,
fragmentation and DDP's buckets. Adapters of rank 64: the backbone once in bfloat16, and two adapters and an average with
gradients and Adam's state in float32; activations of one block at a time come on top (`activation_checkpointing`), and
were not estimated. An adapter's backward pass has no gradients of the backbone's weights: it counts as one forward
pass, and its checkpointed activations as another.

The teacher is asked twice where it is guided, and once where gamma is its input (Flux.1-dev). Prompts are embedded once,
before the run.
"""


class Row(NamedTuple):
    """A run.

    Args:
        name: its config.
        steps: of the optimizer.
        evaluations: forward passes per sample: teacher, student, auxiliary.
        flops: per sample.
        memory: in words.
        case: what gpu_check calls its step; empty where it measures none.
    """

    name: str
    steps: int
    evaluations: tuple[float, float, float]
    flops: float
    memory: str
    case: str = ""


def sit_rows() -> list[Row]:
    """Table 6: REPA's weights are of the same network."""
    rows = []
    for image_size, batch, steps in ((256, 64, 1_500_000), (512, 16, 1_000_000)):
        costs = estimate(
            lambda size=image_size: FreeFlowModule(sit_teacher("XL/2", size)),
            batch_size=batch,
            precision="bf16-mixed",
        )
        asked = tuple(costs.evaluations[name] for name in ("teacher", "student", "auxiliary"))
        for kind in ("sit_xl2", "sit_xl2_repa"):
            memory = f"{batch}: {costs.peak / GIB:.0f} GiB"
            case = f"XL/2 {image_size}, batch {batch}, eager"
            rows.append(Row(f"{kind}_{image_size}", steps, asked, costs.flops, memory, case))
    return rows


class Backbone(NamedTuple):
    """A transformer of diffusers at its published size, and what one forward pass of it takes."""

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: Callable[[], dict[str, torch.Tensor]]
    teacher_evaluations: float
    adapter: int


def sd35() -> torch.nn.Module:
    from diffusers import SD3Transformer2DModel  # noqa: PLC0415 (slow to import)

    return SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=384,
        qk_norm="rms_norm",
        dual_attention_layers=tuple(range(13)),
    )


def flux() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel  # noqa: PLC0415 (slow to import)

    return FluxTransformer2DModel(guidance_embeds=True)


def sd35_inputs() -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.empty(1, 16, 128, 128),
        "encoder_hidden_states": torch.empty(1, 333, 4096),
        "pooled_projections": torch.empty(1, 2048),
        "timestep": torch.empty(1),
    }


def flux_inputs() -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.empty(1, 4096, 64),
        "encoder_hidden_states": torch.empty(1, 512, 4096),
        "pooled_projections": torch.empty(1, 768),
        "timestep": torch.empty(1),
        "guidance": torch.empty(1),
        "img_ids": torch.empty(4096, 3),
        "txt_ids": torch.empty(512, 3),
    }


BACKBONES = (
    Backbone("sd35_medium_lora", sd35, sd35_inputs, 3.5, 130_000_000),
    Backbone("flux1_dev_lora", flux, flux_inputs, 1.75, 350_000_000),
)


def text_row(backbone: Backbone) -> Row:
    """An adapter's run at 1024 x 1024: forward + backward + recomputed counts 3 passes.

    The math kernel is two matrix products, which are counted; the CPU's fused one is not.
    """
    with FakeTensorMode(), torch.no_grad():
        network = backbone.make()
        size = sum(p.numel() for p in network.parameters())
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(**backbone.inputs())
    student, auxiliary = 1.75, 0.25
    passes = backbone.teacher_evaluations + 0.75 + 3 * (1 + auxiliary)
    held = 2 * size + backbone.adapter * (2 * 16 + 4)  # two with Adam and gradients, and an average
    return Row(
        backbone.name,
        20_000,
        (backbone.teacher_evaluations, student, auxiliary),
        passes * counter.get_total_flops(),
        f"4: {held / GIB:.0f} GiB and activations",
    )


def write_row(row: Row, measured: dict[str, Any]) -> str:
    """A line of the table."""
    samples, peak = row.steps * 256, PEAKS[GPU][0]
    days = [samples * row.flops / (peak * share) / 86_400 for share in UTILISATIONS]
    step = measured.get(row.case, {}).get("step")
    found = f"{samples / step['samples_per_second'] / 86_400:,.0f} days" if step else "no"
    asked = " / ".join(f"{n:g}" for n in row.evaluations)
    cells = [f"`{row.name}`", f"{row.steps:,}", asked, f"{row.flops / 1e12:.2f}"]
    cells += [f"{d:,.0f}" for d in days] + [found, row.memory]
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--measured", type=Path, help="b.json of gpu_check")
    options = parser.parse_args()
    measured = {}
    if options.measured is not None:
        measured = json.loads(options.measured.read_text(encoding="utf-8"))["cases"]
    kind = "Estimated, beside what was measured." if measured else "Estimated: no GPU was at hand."
    rows = [*sit_rows(), *(text_row(backbone) for backbone in BACKBONES)]
    head = HEAD.format(kind=kind, gpu=GPU, peak=PEAKS[GPU][0] / 1e12)
    write_text(options.page, head + "".join(write_row(row, measured) for row in rows) + TAIL)


if __name__ == "__main__":
    main()
