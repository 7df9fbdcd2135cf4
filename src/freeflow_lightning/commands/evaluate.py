"""freeflow evaluate: a student's samples against its teacher's, or against given statistics: table,
JSON, Markdown.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from freeflow_lightning.commands.options import (
    NoiseOptions,
    Rule,
    SamplerOptions,
    StudentOptions,
    WorkOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.evaluation import (
    NOTE,
    PAGE,
    write,
)
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.reference import draw_table, feature_facts, teacher_table
from freeflow_lightning.evaluation.scores import endpoint_errors, evaluate_tables
from freeflow_lightning.metrics import (
    DigitsFeatures,
    FeatureNetwork,
    FeatureTable,
    InceptionFeatures,
    read_statistics,
)
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.processes import joined, start, starts_others
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.open_student import (
    pick_device,
)
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.output_folder import claim_names

INTERVALS = (
    "95 %: FID and KID by the jackknife over 10 groups of samples, others binomial or standard "
    "errors of a mean; the reference is held fixed"
)


def evaluate(
    opening: StudentOptions,
    guidance: float | None = None,
    num_samples: int = 10_000,
    reference: str = "teacher",
    features: Name | FeatureNetwork = "auto",
    weights: str | None = None,
    reference_samples: int = 10_000,
    reference_steps: int = 64,
    reference_method: Rule = "heun",
    reference_seed: int = 1,
    floor: bool = True,
    paired_samples: int | None = None,
    output: str = "evaluation",
    *,
    noise: NoiseOptions,
    beside: SamplerOptions,
    work: WorkOptions,
) -> None:
    """Measure a student's samples: against its teacher's own, which needs no data, or against given
    statistics.

    Prints a table and writes evaluation.json and evaluation.md. The teacher's samples are drawn
    once and kept in
    $FREEFLOW_CACHE (~/.cache/freeflow-lightning). For the FID-50K of papers: --reference VIRTUAL_imagenet256_labeled.npz
    --num_samples 50000 --features inception. Under torchrun, or with --devices, the processes share the work.

    Args:
        opening: the student; one that holds no teacher wants --reference FILE.
        guidance: guidance scale of the samples, and of the teacher's that they are compared with;
            the run's evaluation_guidance if not given.
        num_samples: samples to measure; FID depends on how many, so compare equal numbers.
        reference: "teacher" for its own samples, or a file: ADM's .npz (mu, sigma, arr_0),
            torch-fidelity's .pt, or an .npz of pictures (arr_0, as `freeflow sample --npz` writes).
        features: auto, inception, dinov2, digits, flat (the plain numbers), or a class_path of your
            own FeatureNetwork.
        weights: the file of Inception's or DINOv2's weights.
        reference_samples: samples of the teacher to compare with.
        reference_steps: the teacher's steps.
        reference_method: the teacher's one-step rule.
        reference_seed: seed of the teacher's samples; their noise is never that of the samples
            measured.
        floor: draw the teacher a second time too: what a perfect student would score at this number
            of samples.
        paired_samples: samples whose endpoint is compared with the teacher's for the same noise;
            512 if not given.
        output: folder to write to; made if it does not exist.
        noise: the noise and the classes.
        beside: what takes the place of the checkpoint's own, and who is measured.
        work: where it runs, and how much at once.
    """
    if min(num_samples, reference_samples) < 2 or (paired_samples or 0) < 0:
        raise ValueError(
            f"expected at least 2 samples on either side, got {num_samples} and "
            f"{reference_samples} (paired {paired_samples})"
        )
    work.check_counts(num_samples)
    if starts_others(work.devices):
        start(work.devices)
        return
    with joined() as processes:
        if processes.first:
            claim_names(Path(output), NOTE, "evaluate", [PAGE])
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        guidance = student.evaluation_guidance if guidance is None else guidance
        sampler, where = beside.sampler(student, guidance), student.device
        ours = reference == "teacher"
        alone = isinstance(student.teacher, LatentSpace)
        if alone and (ours or beside.teacher or paired_samples):
            raise ValueError(
                f"{opening.checkpoint} holds no teacher to compare with or to draw from: give "
                f"--reference FILE alone"
            )
        which = noise.draw(student.teacher)
        seen_by = pick_features(features, weights, student.teacher, where)
        truth = TeacherSampler(student.teacher, reference_method, reference_steps, guidance)
        pairs = min(num_samples, 0 if alone else 512 if paired_samples is None else paired_samples)
        given: Any = (
            read_statistics(reference, seen_by, device=where)
            if not ours and processes.first
            else None
        )
        shared: dict[str, Any] = {"device": where, "processes": processes}
        sizes: dict[str, Any] = {
            "batch_size": work.batch_size,
            "decode_batch_size": work.decode_batch_size,
        }

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
            table = draw_table(
                sampler,
                seen_by,
                which,
                count=num_samples,
                kept=num_samples,
                advance=advance,
                **sizes,
                **shared,
            )
            if not processes.first:
                return
            errors = None
            if pairs:
                bar.add_task("endpoints", total=None)
                errors = endpoint_errors(
                    sampler, truth, which, pairs, batch_size=work.batch_size, device=where
                )
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
                "checkpoint": opening.checkpoint,
                "samples": num_samples,
                **which.facts(),
                "reference": _reference_facts(
                    reference, truth, where, reference_samples, reference_seed, compared
                ),
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
    reference: str,
    truth: TeacherSampler,
    device: torch.device,
    count: int,
    seed: int,
    compared: Any,
) -> dict[str, Any]:
    if reference == "teacher":
        made = {"teacher": fingerprint(truth.teacher, device)[:16], **truth.settings()}
        return made | {"samples": count, "seed": seed}
    return {"file": reference, "pictures in it": len(compared.rows.get("features", ()))}


main = partial(run, evaluate)
