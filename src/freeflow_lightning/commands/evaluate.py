"""freeflow evaluate: a student's samples against its teacher's, or against given statistics: table, JSON, Markdown."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from rich.progress import Progress
from torch import nn

from freeflow_lightning.commands.parser import BriefErrors, about
from freeflow_lightning.commands.views.evaluation import (
    NOTE,
    PAGE,
    write,
)
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.reference import draw_table, feature_facts, teacher_table
from freeflow_lightning.evaluation.scores import endpoint_errors, evaluate_tables
from freeflow_lightning.metrics import DigitsFeatures, FeatureNetwork, FeatureTable, InceptionFeatures, read_statistics
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.processes import joined, start, starts_others
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.official_weights import OfficialConvention
from freeflow_lightning.students.open_student import (
    Overrides,
    draw_of_options,
    open_student,
    pick_device,
    sampler_of_options,
)
from freeflow_lightning.teachers import LatentSpace, Teacher
from freeflow_lightning.training.output_folder import claim_names

INTERVALS = (
    "95 %: FID and KID by the jackknife over 10 groups of samples, others binomial or standard errors of a mean; "
    "the reference is held fixed"
)


def evaluate(
    checkpoint: str,
    guidance: float = 1.5,
    num_samples: int = 10_000,
    reference: str = "teacher",
    features: Name | FeatureNetwork = "auto",
    weights: str | None = None,
    reference_samples: int = 10_000,
    reference_steps: int = 64,
    reference_method: Literal["euler", "heun", "midpoint", "rk4"] = "heun",
    reference_seed: int = 1,
    floor: bool = True,
    paired_samples: int | None = None,
    seed: int = 0,
    classes: list[int] | None = None,
    balanced: bool = False,
    teacher: bool | Teacher = False,
    steps: int | None = None,
    method: Literal["euler", "heun", "midpoint", "rk4"] | None = None,
    output: str = "evaluation",
    batch_size: int = 256,
    decode_batch_size: int = 64,
    average: str | None = None,
    device: str = "auto",
    devices: int = 1,
    vae: str | None = None,
    official: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
    prompts: str | None = None,
    network: nn.Module | None = None,
    trust: list[str] | None = None,
) -> None:
    """Measure a student's samples: against its teacher's own, which needs no data, or against given statistics.

    Prints a table and writes evaluation.json and evaluation.md. The teacher's samples are drawn once and kept in
    $FREEFLOW_CACHE (~/.cache/freeflow-lightning). For the FID-50K of papers: --reference VIRTUAL_imagenet256_labeled.npz
    --num_samples 50000 --features inception. Under torchrun, or with --devices, the processes share the work.

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote, or, with --reference FILE, an exported student (a folder or hub
            repository) or the FreeFlow authors' weights.
        guidance: guidance scale of the samples, and of the teacher's that they are compared with.
        num_samples: samples to measure; FID depends on how many, so compare equal numbers.
        reference: "teacher" for its own samples, or a file: ADM's .npz (mu, sigma, arr_0), torch-fidelity's .pt, or an .npz
            of pictures (arr_0, as `freeflow sample --npz` writes).
        features: auto, inception, dinov2, digits, flat (the plain numbers), or a class_path of your own FeatureNetwork.
        weights: the file of Inception's or DINOv2's weights.
        reference_samples: samples of the teacher to compare with.
        reference_steps: the teacher's steps.
        reference_method: the teacher's one-step rule.
        reference_seed: seed of the teacher's samples; their noise is never that of the samples measured.
        floor: draw the teacher a second time too: what a perfect student would score at this number of samples.
        paired_samples: samples whose endpoint is compared with the teacher's for the same noise; 512 if not given.
        seed: seed of the noise and of drawn classes.
        classes: class labels, repeated in turn; drawn uniformly if not given.
        balanced: every class in turn. Papers with drawn classes report a slightly higher FID.
        teacher: measure the teacher itself, at --steps and --method. Or a Teacher, its class and then its arguments as
            --teacher.NAME, which takes the place of the checkpoint's; it is measured if --steps or --method is given.
        steps: the teacher's steps; 64 if not given.
        method: the teacher's one-step rule; heun if not given.
        output: folder to write to; made if it does not exist.
        batch_size: samples per network evaluation.
        decode_batch_size: samples that a latent teacher's decoder takes at once.
        average: which moving average, for example ema_0_9999, or raw; the first one if not given.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
        devices: processes to start, one per accelerator (or on the CPU's cores).
        vae: of official weights: folder or hub repository of the VAE; stabilityai/sd-vae-ft-ema if not given.
        official: how to read official weights; what is auto is measured and said.
        prompts: of an exported student of prompts: folder that `freeflow embed` wrote.
        network: takes the place of the network that the checkpoint's student started from, or says it where the checkpoint
            cannot: its class, then its arguments as --network.NAME.
        trust: class paths outside this package that the checkpoint may import.
    """
    if min(num_samples, reference_samples) < 2 or (paired_samples or 0) < 0 or min(batch_size, decode_batch_size) < 1:
        raise ValueError(
            f"expected at least 2 samples on either side, got {num_samples} and {reference_samples} "
            f"(paired {paired_samples}, batches {batch_size} and {decode_batch_size})"
        )
    if starts_others(devices):
        start(devices)
        return
    with joined() as processes:
        if processes.first:
            claim_names(Path(output), NOTE, "evaluate", [PAGE])
        overrides = Overrides(teacher if isinstance(teacher, Teacher) else None, network, trust)
        student = open_student(checkpoint, average, vae=vae, official=official, prompts=prompts, overrides=overrides).to(
            pick_device(device, processes)
        )
        sampler, where = sampler_of_options(student, guidance, teacher, steps, method), student.device
        ours = reference == "teacher"
        alone = isinstance(student.teacher, LatentSpace)
        if alone and (ours or teacher or paired_samples):
            raise ValueError(f"{checkpoint} holds no teacher to compare with or to draw from: give --reference FILE alone")
        which = draw_of_options(student.teacher, seed, classes, balanced)
        seen_by = pick_features(features, weights, student.teacher, where)
        truth = TeacherSampler(student.teacher, reference_method, reference_steps, guidance)
        pairs = min(num_samples, 0 if alone else 512 if paired_samples is None else paired_samples)
        given: Any = read_statistics(reference, seen_by, device=where) if not ours and processes.first else None
        shared: dict[str, Any] = {"device": where, "processes": processes}
        sizes: dict[str, Any] = {"batch_size": batch_size, "decode_batch_size": decode_batch_size}

        with progress_bar(processes.first) as bar:
            # each bar counts the samples of all processes, at the pace of the first
            def task(name: str, total: int) -> Callable[[int], None]:
                return _advance(bar, name, total, processes.size)

            def teachers(stream: str, n: int) -> Any:
                return teacher_table(
                    truth,
                    seen_by,
                    count=n,
                    seed=reference_seed,
                    stream=stream,
                    classes=which.classes,
                    advance=task(f"teacher, {stream}", n),
                    **sizes,
                    **shared,
                )

            compared: FeatureTable = teachers("reference", reference_samples) if ours else given
            baseline = teachers("floor", num_samples) if ours and floor else None
            advance = task(sampler.name, num_samples)
            table = draw_table(sampler, seen_by, which, count=num_samples, kept=num_samples, advance=advance, **sizes, **shared)
            if not processes.first:
                return
            errors = None
            if pairs:
                bar.add_task("endpoints", total=None)
                errors = endpoint_errors(sampler, truth, which, pairs, batch_size=batch_size, device=where)
        assert table is not None  # the first process has it
        result = evaluate_tables(
            table,
            compared,
            baseline,
            errors,
            num_classes=student.teacher.num_classes,
            classifies=isinstance(seen_by, DigitsFeatures),
            scores_inception=isinstance(seen_by, InceptionFeatures),
            about=sampler.facts()
            | {
                "checkpoint": checkpoint,
                "samples": num_samples,
                **which.facts(),
                "reference": _reference_facts(reference, truth, where, reference_samples, reference_seed, compared),
                "features": feature_facts(seen_by),
                "precision": f"{next(student.parameters()).dtype}, float32 matmul {torch.get_float32_matmul_precision()}",
                "pictures": "uint8 by clamp(127.5 x + 128), rounded down",
                "evaluator": f"freeflow-lightning {version('freeflow-lightning')}, torch {torch.__version__}, {where}",
                "intervals": INTERVALS,
            },
        )
        write(result, sampler.name, Path(output))


def _advance(bar: Progress, name: str, total: int, size: int) -> Callable[[int], None]:
    number = bar.add_task(name, total=total)
    return lambda n: bar.advance(number, n * size)


def _reference_facts(
    reference: str, truth: TeacherSampler, device: torch.device, count: int, seed: int, compared: Any
) -> dict[str, Any]:
    if reference == "teacher":
        made = {"teacher": fingerprint(truth.teacher, device)[:16], **truth.settings()}
        return made | {"samples": count, "seed": seed}
    return {"file": reference, "pictures in it": len(compared.rows.get("features", ()))}


def main() -> None:
    """Parse the command line of `freeflow evaluate`."""
    auto_cli(
        evaluate,
        args=sys.argv[2:],
        prog="freeflow evaluate",
        description=about(evaluate),
        as_positional=False,
        parser_class=BriefErrors,
    )
