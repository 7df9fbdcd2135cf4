"""freeflow reproduce: a claim of the paper, trained and measured on the faces, beside its statement."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from freeflow_lightning.commands.claim_files import contender_of, find_claim, list_claims
from freeflow_lightning.commands.contender import Contender
from freeflow_lightning.commands.field import Field
from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.claim import claim_markdown, plot_claim, update_table
from freeflow_lightning.commands.views.progress import progress_bar, starter
from freeflow_lightning.evaluation.claims import Claim, Size
from freeflow_lightning.evaluation.findings import ClaimResult
from freeflow_lightning.evaluation.methods import Method, Run
from freeflow_lightning.evaluation.pick_features import pick_features
from freeflow_lightning.evaluation.yardstick import Measure, Yardstick
from freeflow_lightning.examples.faces.data import REFERENCE
from freeflow_lightning.flow import check_counts
from freeflow_lightning.profiling.budget import Budget
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.training.folder_lock import lock_folder
from freeflow_lightning.training.output_folder import claim_names, publish

USAGE = """freeflow reproduce [NAME] [--budget short|full] [options]

for example
       freeflow reproduce          lists the claims
       freeflow reproduce fig7     trains, measures and plots one, in ten minutes of two cores"""


def reproduce(
    name: str | None = None,
    budget: Literal["short", "full", "trial"] = "short",
    seeds: int | None = None,
    output: str = "reproduce",
    table: str | None = None,
    *,
    where: DeviceOptions,
) -> None:
    """Repeat a claim of the paper on the embedded faces: train, measure, plot, and say if it holds.

    Writes NAME.md (the paper's statement beside our measurement, mean and spread over the seeds),
    NAME.png (in the paper's arrangement) and NAME.json (every figure, commit, command and machine).
    The same command goes on where a killed one has stopped.

    Args:
        name: of the claim; all are listed, one a line, if not given.
        budget: short takes about ten minutes of two cores, full hours; trial takes seconds and only
            shows that everything runs.
        seeds: training runs of each setting; the claim's own number, three mostly, if not given.
        output: folder to write to; made if it does not exist.
        table: a Markdown page whose block between the marks of the claims is written anew, from
            all results in the output folder.
        where: the device.
    """
    if name is not None:
        claim = find_claim(name)
        size = claim.size(budget)
        if seeds is not None:
            check_counts(1, seeds=seeds)
            size = size._replace(seeds=seeds)
        write_claim(claim, size, budget, Path(output), pick_device(where.device))
    elif table is None:
        list_all()
    if table is not None:
        update_table(Path(table), Path(output))
        print(f"written: {table}")


def list_all() -> None:
    """Print every claim in one line."""
    claims = list_claims()
    width = max(len(name) for name in claims)
    for name, claim in claims.items():
        print(f"{name:<{width}}  {claim.title} ({claim.source})")


def write_claim(claim: Claim, size: Size, budget: str, root: Path, device: torch.device) -> None:
    """Measure a claim and write its page, its picture and its figures."""
    note, page, picture = (f"{claim.name}.{ending}" for ending in ("json", "md", "png"))
    runs = root / claim.name
    with lock_folder(runs, "reproduce"):
        claim_names(root, note, "reproduce", [page, picture])
        result = measure_claim(claim, size, budget, runs, device)
        files = {page: claim_markdown(result).encode(), picture: plot_claim(result)}
        publish(root, note, "reproduce", result.as_json(), files)
    for finding in result.findings():
        print(f"{finding.verdict}: {finding.say}")
    print(f"written: {root / page}, {root / picture}, {root / note}")


def measure_claim(
    claim: Claim, size: Size, budget: str, root: Path, device: torch.device
) -> ClaimResult:
    """Train and measure every arm of a claim with every seed; what has ended before is read."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    started = time.monotonic()
    contenders = {arm.label: contender_of(claim, arm) for arm in claim.arms(size)}
    yardstick = yardstick_of(claim, size, next(iter(contenders.values())), device)
    field = Field(
        Budget(size.unit, size.amount, size.points),
        yardstick,
        device,
        root,
        list(range(size.seeds)),
        size.rates,
        lambda student: claim.read.of_student(yardstick, student),
        tell=lambda run: print(in_words(run, claim.figures[0]), flush=True),
        reading={"reading": claim.reading},
        keeps=False,
    )
    teacher = claim.read.of_teacher(yardstick)
    methods: dict[str, Method] = {}
    with progress_bar(True) as bar:
        advance = starter(bar, 1)("measurements", field.count_points(len(contenders)))
        for label, contender in contenders.items():
            methods[label] = field._replace(advance=advance).method(contender)
    first = next(iter(contenders.values()))
    about = {
        **field.facts(),
        "name of the budget": budget,
        "batch size": first.batch_size,
        "seconds of this call": round(time.monotonic() - started),
    }
    return ClaimResult(claim, size, methods, teacher, about)


def yardstick_of(claim: Claim, size: Size, contender: Contender, device: torch.device) -> Yardstick:
    """Return what the students of a claim are measured against: real faces, or the teacher's
    own.
    """
    teacher = contender.teacher().to(device).eval()
    by_teacher = claim.reference == "teacher"
    needs_pairs = bool({"error", "endpoint_error"} & set(claim.figures))
    model = contender.settings.model.as_dict()["init_args"]
    measure = Measure(
        guidance=float(model["evaluation_guidance"]),
        samples=size.samples,
        reference_samples=size.samples if by_teacher else 0,
        paired_samples=size.paired_samples if needs_pairs else 0,
        teacher_steps=size.teacher_steps,
        statistics=None if by_teacher else str(REFERENCE),
    )
    return Yardstick(teacher, pick_features("auto", None, teacher, device), measure, device)


def in_words(run: Run, figure: str) -> str:
    """Return one line that says how a run has ended.

    >>> in_words(Run("both", 1, 1.0, failure="diverged at step 3"), "fid")
    'both, seed 1: diverged at step 3'
    """
    head = f"{run.method}, seed {run.seed}"
    if run.failure:
        return f"{head}: {run.failure}"
    last = run.points[-1]
    values = [f"{row[figure]:.4g}" for row in last.figures.values() if figure in row]
    return f"{head}: {last.steps} steps in {last.seconds:.0f} s; {figure} {', '.join(values)}"


main = partial(run, reproduce, usage=USAGE)
