"""freeflow report: a run's student beside its teacher at 1, 2, 4, 8 and 64 steps, same noise: figures, pictures, curves."""

import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from freeflow_lightning.callbacks.trajectory import relative_error
from freeflow_lightning.commands.parser import BriefErrors
from freeflow_lightning.evaluation.diagnosis import along_delta
from freeflow_lightning.evaluation.pick_features import MOST_FLAT, Name, pick_features
from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import DigitsFeatures, FeatureNetwork, FrechetDistance, to_uint8
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import labels_of, pictures
from freeflow_lightning.sampling.teacher_sampler import Sampler
from freeflow_lightning.students.export.markdown import plain
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import Overrides, open_student, pick_device
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.output_folder import claim_names, publish
from freeflow_lightning.training.run_folder import read_metrics, versions
from freeflow_lightning.training.training_checkpoint import find_checkpoint

NOTE, PAGE = "report.json", "report.md"
PATHS = "trajectories.png"
PICTURES = ("comparison.png", "error_along_delta.png", "training.png", PATHS)
STEPS = (1, 2, 4, 8, 64)
BATCH = 512


class Line(NamedTuple):
    """One sampler's figures; accuracy is None where nothing recognises the samples."""

    name: str
    guidance: float
    evaluations: int
    fid: float
    endpoint: float
    accuracy: float | None
    milliseconds: float


class Judge:
    """Frechet distance to fixed reference samples, and the share of recognised classes."""

    def __init__(self, reference: Tensor, features: FeatureNetwork) -> None:
        self.features, self.metric = features, FrechetDistance(features)
        self.metric.update(reference, real=True)

    def fid(self, drawn: Tensor) -> float:
        """Distance of samples, as `pictures` gives them, to the reference."""
        self.metric.reset()
        self.metric.update(drawn, real=False)
        return float(self.metric.compute())

    def accuracy(self, drawn: Tensor, labels: Tensor | None) -> float | None:
        """Share of samples that the classifier sees as the class they were drawn for."""
        if labels is None or not isinstance(self.features, DigitsFeatures):
            return None
        seen = self.features.logits(drawn).argmax(1).cpu()
        return float((seen == labels).float().mean())


def report(
    run: str,
    reference: Literal["teacher", "digits"] = "teacher",
    num_samples: int = 1797,
    guidance: list[float] | None = None,
    features: Name | FeatureNetwork | None = None,
    weights: str | None = None,
    seed: int = 3,
    device: str = "auto",
    teacher: Teacher | None = None,
    network: nn.Module | None = None,
    trust: list[str] | None = None,
) -> None:
    """Write report.md, its pictures and report.json, which lists them, into a run's folder.

    Args:
        run: folder of a run, runs/NAME/version_N, or runs/NAME for its newest.
        reference: what FID compares with: samples of the teacher (64 Heun steps, other noise) or scikit-learn's real digits.
        num_samples: samples per sampler; the same noise for all.
        guidance: guidance scales to compare; the lowest of the student's range and the middle if not given.
        features: network that FID sees samples with, as in `freeflow evaluate`; if not given, the digits' own with reference
            digits, the plain numbers of samples of up to 8192 numbers, and Inception's above.
        weights: the file of Inception's or DINOv2's weights.
        seed: seed of the noise.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        teacher: takes the place of the checkpoint's teacher: its class, then its arguments as --teacher.NAME.
        network: takes the place of the network that the checkpoint's student started from, or says it where the checkpoint
            cannot: its class, then its arguments as --network.NAME.
        trust: class paths outside this package that the checkpoint may import.
    """
    folder = newest(Path(run))
    claim_names(folder, NOTE, "report", [PAGE, *PICTURES])
    student = open_student(find_checkpoint(folder), overrides=Overrides(teacher, network, trust)).to(pick_device(device))
    low, high = student.guidance_range
    scales = sorted(set(guidance or [low, (low + high) / 2]))
    z, condition = student.teacher.draw_indexed(torch.arange(num_samples), seed=seed, stream="report", device=student.device)
    labels = labels_of(student.teacher, condition)
    seen_by = features_for(student, reference, features, weights)
    judge = Judge(reference_samples(student, reference, num_samples, low, seed), seen_by)

    lines, shown, paths = [], {}, {}
    for gamma in scales:
        truth, spent = timed(lambda z, c, g=gamma: Sampler("heun", 64, g)(student.teacher, z, c), z, condition)
        many = judged("teacher", 64, gamma, truth, truth, spent, judge, student, labels)
        for k in STEPS[:-1] if gamma == scales[0] else ():
            x, t = timed(lambda z, c, g=gamma, k=k: Sampler("heun", k, g)(student.teacher, z, c), z, condition)
            lines.append(judged("teacher", k, gamma, x, truth, t, judge, student, labels))
            shown[f"teacher, {k} step{'s' * (k > 1)}"] = x
        x, t = timed(lambda z, c, g=gamma: student(z, c, g), z, condition)
        lines += [many, judged("student", 1, gamma, x, truth, t, judge, student, labels)]
        if gamma == scales[0]:
            shown |= {"teacher, 64 steps": truth, "student, 1 step": x}
            paths = along_delta(student, z[:256], take(condition, slice(256)), gamma)._asdict()
            paths["error"] = paths.pop("errors").mean(1)
    drawn = draw_pictures(folder, student, shown, labels, paths)
    floor = halves(judge) if reference == "digits" else None
    page = text(folder, lines, list(drawn), reference, floor, num_samples)
    numbers: dict[str, Any] = {"reference": reference, "samples": num_samples, "seed": seed, "floor": floor}
    numbers["samplers"] = [line._asdict() for line in lines]
    print("\n".join(table(lines)))
    publish(folder, NOTE, "report", numbers, drawn | {PAGE: page.encode()})
    print(f"written: {folder / PAGE}")


def newest(folder: Path) -> Path:
    """A run's own folder: the given one, or the newest version in it."""
    numbers = versions(folder)
    folder = folder / f"version_{numbers[-1]}" if numbers else folder
    if not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(f"no run with checkpoints at {folder}: expected runs/NAME or runs/NAME/version_N")
    return folder


def features_for(
    student: FlowMap, reference: str, features: Name | FeatureNetwork | None, weights: str | None
) -> FeatureNetwork:
    """The given network; else the digits' own for the digits, and by the size of decoded samples otherwise."""
    if features is None and reference == "digits":
        features = "digits"
    elif features is None:
        teacher = student.teacher
        origin = torch.zeros(1, *teacher.sample_shape, device=student.device)
        features = "flat" if teacher.decode(origin).numel() <= MOST_FLAT else "auto"
    return pick_features(features, weights, student.teacher, student.device)


def reference_samples(student: FlowMap, reference: str, n: int, gamma: float, seed: int) -> Tensor:
    """What FID compares with."""
    if reference == "digits":
        return to_uint8(load_digits()[0]).to(student.device)
    z, condition = student.teacher.draw_indexed(torch.arange(n), seed=seed, stream="reference", device=student.device)
    return pictures(student.teacher, Sampler("heun", 64, gamma)(student.teacher, z, condition))


def timed(sampler: Any, z: Tensor, condition: Any) -> tuple[Tensor, float]:
    """All samples in batches, and milliseconds per sample."""
    parts, start = [], time.perf_counter()
    for rows in torch.arange(len(z), device=z.device).split(BATCH):
        parts.append(sampler(z[rows], take(condition, rows)))
    x = torch.cat(parts).cpu().to(z.device)
    return x, (time.perf_counter() - start) * 1000 / len(z)


def judged(
    who: str,
    k: int,
    gamma: float,
    x: Tensor,
    truth: Tensor,
    spent: float,
    judge: Judge,
    student: FlowMap,
    labels: Tensor | None,
) -> Line:
    """One line of the table."""
    drawn = pictures(student.teacher, x)
    branches = 1 if gamma == 1 else 2
    evaluations = 1 if who == "student" else 2 * k * branches
    error = float(relative_error(x[None], truth[None])[0])
    name = f"{who}, {k} step{'s' * (k > 1)}"
    return Line(name, gamma, evaluations, judge.fid(drawn), error, judge.accuracy(drawn, labels), spent)


def halves(judge: Judge) -> float:
    """FID between two random halves of the real digits: what sampling noise alone costs at half the count."""
    real = to_uint8(load_digits()[0])
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    half = FrechetDistance(judge.features)
    half.update(real[order[: len(real) // 2]], real=True)
    half.update(real[order[len(real) // 2 :]], real=False)
    return float(half.compute())


def draw_pictures(
    folder: Path, student: FlowMap, shown: dict[str, Tensor], labels: Tensor | None, paths: dict[str, Tensor]
) -> dict[str, bytes]:
    """Every picture that report.md shows, as the bytes of a PNG by its name."""
    drawn = {}
    first = {name: pictures(student.teacher, x).cpu() for name, x in shown.items()}
    if next(iter(first.values())).ndim == 4:
        columns = slice(12) if labels is None else one_per_class(labels, student.teacher.num_classes)
        figure = plots.rows({name: x[columns] for name, x in first.items()}, "the same noise, column by column")
    else:
        figure = plots.densities({name: plots.plane(first[name]) for name in ("teacher, 64 steps", "student, 1 step")})
    if student.teacher.sample_shape == (2,):
        drawn[PATHS] = plots.png(plots.trajectories(paths["teacher"], paths["student"]))
    curve = plots.curves(
        {"student": (paths["delta"], paths["error"])},
        xlabel="delta",
        ylabel="relative error",
        title="error along delta (Fig. 4)",
    )
    drawn["comparison.png"] = plots.png(figure, 130)
    drawn["error_along_delta.png"] = plots.png(curve)
    drawn["training.png"] = plots.png(plots.training(read_metrics(folder / "metrics.csv")))
    return drawn


def one_per_class(labels: Tensor, classes: int) -> Tensor:
    """The first two samples of each class, class by class."""
    return torch.cat([(labels == k).nonzero()[:2, 0] for k in range(min(classes, 10))])


def table(lines: list[Line]) -> list[str]:
    """The figures as Markdown."""
    recognised = any(line.accuracy is not None for line in lines)
    header = ["sampler", "guidance", "evaluations", "FID", "endpoint error", *["recognised"] * recognised, "ms / sample"]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for x in lines:
        accuracy = [f"{x.accuracy:.1%}"] * recognised if x.accuracy is not None else []
        rows.append(
            [
                x.name,
                f"{x.guidance:g}",
                str(x.evaluations),
                f"{x.fid:.4g}",
                f"{x.endpoint:.3f}",
                *accuracy,
                f"{x.milliseconds:.3f}",
            ]
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def text(folder: Path, lines: list[Line], shown: list[str], reference: str, floor: float | None, count: int) -> str:
    """report.md."""
    student = next(x for x in lines if x.name.startswith("student"))
    many, two = (next(x for x in lines if x.name == f"teacher, {k} steps" and x.guidance == student.guidance) for k in (64, 2))
    against = (
        "scikit-learn's 1797 real digits" if reference == "digits" else "the teacher's own samples (64 Heun steps, other noise)"
    )
    return "\n".join(
        [
            f"# {plain(folder.parent.name)}, {plain(folder.name)}",
            "",
            f"One step of the student: FID {student.fid:.4g}, {student.fid / many.fid:.2f} times its teacher's at 64 Heun",
            f"steps and {student.fid / two.fid:.2f} times its teacher's at 2.",
            "",
            "![the same noise through teacher and student](comparison.png)",
            "",
            f"{count} samples from the same noise and conditions. FID is to {against}; the endpoint error is the mean of",
            "|x - y| / |y| against the 64-step teacher y of the same guidance; an evaluation is one network pass, a guided",
            "teacher step of Heun takes four.",
            *([f"Two halves of the real digits have FID {floor:.4g} to each other."] if floor is not None else []),
            "",
            *table(lines),
            "",
            *(["![paths](trajectories.png)", ""] if PATHS in shown else []),
            "![error along delta](error_along_delta.png)",
            "",
            "![training](training.png)",
            "",
            "Made by `freeflow report`; every figure of the training is in metrics.csv, the settings in config.yaml.",
            "",
        ]
    )


def main() -> None:
    """Parse the command line of `freeflow report`."""
    auto_cli(report, args=sys.argv[2:], prog="freeflow report", parser_class=BriefErrors)
