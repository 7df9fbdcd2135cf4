"""freeflow compare: several methods on one teacher, each within the same budget: a table and a plot."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from freeflow_lightning.commands.contender import Contender, read_contender
from freeflow_lightning.commands.feature_options import FeatureOptions
from freeflow_lightning.commands.field import Field
from freeflow_lightning.commands.options import DeviceOptions
from freeflow_lightning.commands.run import Options, run
from freeflow_lightning.commands.views.comparison import (
    NOTE,
    PAGE,
    PLOT,
    comparison_markdown,
    describe_run,
    plot_comparison,
)
from freeflow_lightning.commands.views.progress import progress_bar, starter
from freeflow_lightning.evaluation.methods import Method, MethodComparison, Run
from freeflow_lightning.evaluation.pick_features import pick_features
from freeflow_lightning.evaluation.yardstick import Measure, Yardstick
from freeflow_lightning.flow import check_counts, check_numbers, training_generator
from freeflow_lightning.profiling.budget import Budget, evaluations_of_run
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.training.folder_lock import lock_folder
from freeflow_lightning.training.output_folder import claim_names, publish

USAGE = """freeflow compare --config A.yaml B.yaml [--budget evaluations --amount N] [options]

for example
       freeflow compare --config configs/digits.yaml configs/digits_anystep.yaml --amount 2e6
       freeflow compare --config base.yaml+one.yaml base.yaml+two.yaml --budget seconds --amount 600"""


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """what each run may spend

    Args:
        budget: evaluations are forward passes of student, auxiliary network and teacher, counted
            call by call (a pass with its gradient is 3, a forward-mode derivative 2, both 6);
            seconds are those of training alone; steps are the optimizer's.
        amount: how many; what the first config's own max_steps take, in evaluations, if not given.
        points: measurements at equal parts of it, the last at its end.
    """

    budget: Literal["evaluations", "seconds", "steps"] = "evaluations"
    amount: float | None = None
    points: int = 4

    def of(self, first: Contender) -> Budget:
        """Return the budget; without an amount that of a config's own run."""
        check_counts(1, points=self.points)
        if self.amount is not None:
            check_numbers(0, without_low=True, amount=self.amount)
            return Budget(self.budget, float(self.amount), self.points)
        if self.budget != "evaluations":
            raise ValueError(
                f"--budget {self.budget} wants how many: give --amount {self.budget.upper()}"
            )
        if first.max_steps < 1:
            raise ValueError(
                f"{first.words} has no max_steps to take the budget from: give --amount"
            )
        amount = evaluations_of_run(first.module(), first.batch_size, first.max_steps)
        return Budget(self.budget, amount * first.micro_batches, self.points)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(FeatureOptions):
    """how students are measured

    Args:
        guidance: gamma of all samples; the configs' evaluation_guidance if not given.
        num_samples: samples of each student; FID depends on how many, so compare equal numbers.
        reference_samples: samples of the teacher to compare with.
        reference_steps: the teacher's Heun steps.
        paired_samples: samples whose endpoint is compared with the teacher's for the same noise.
        statistics: a file that FID is measured to as well: ADM's .npz, torch-fidelity's .pt, or an
            .npz of pictures.
    """

    guidance: float | None = None
    num_samples: int = 10_000
    reference_samples: int = 10_000
    reference_steps: int = 64
    paired_samples: int = 512
    statistics: str | None = None

    def of(self, guidance: float) -> Measure:
        """Return how samples of a guidance are measured."""
        check_counts(2, num_samples=self.num_samples, reference_samples=self.reference_samples)
        check_counts(1, reference_steps=self.reference_steps)
        check_counts(0, paired_samples=self.paired_samples)
        return Measure(
            guidance,
            self.num_samples,
            self.reference_samples,
            self.paired_samples,
            self.reference_steps,
            self.statistics,
        )


def compare(
    config: list[str],
    seeds: list[int] = [0, 1, 2],  # noqa: B006 (never changed)
    rates: list[float] = [1.0],  # noqa: B006
    output: str = "comparison",
    overrides: list[str] | None = None,
    *,
    spending: BudgetOptions,
    measuring: MeasureOptions,
    where: DeviceOptions,
) -> None:
    """Train several methods on one teacher, each within the same budget, with several seeds.

    Writes comparison.md, comparison.png and comparison.json: FID to the teacher and to given
    statistics, endpoint error, recall and diversity at 1, 2, 4 and 8 steps, as far as a method is
    trained for them, over the evaluations spent; mean and spread over the seeds.

    They are written after each method, and the same command goes on where a killed one has stopped.
    A run that diverges is a row that says so. Configs are those of `freeflow fit`; nothing is
    validated meanwhile, and one device trains. Learning rates that fall (lr_decay_steps) do so over
    the same share of the budget as of the config's own run.

    Args:
        config: configs of `freeflow fit`, one for each method; files joined by + are one config, of
            which the later files win.
        seeds: of training, one run each.
        rates: multiples of each config's student_lr. With several, the first seed tries all of
            them, and the one with the lowest final FID, in the mean over the steps, is taken.
        output: folder to write to; made if it does not exist.
        overrides: set by --model.*, --data.* and --trainer.*, for all configs.
        spending: the budget.
        measuring: the figures.
        where: the device.
    """
    check_lists(config, seeds, rates)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = pick_device(where.device)
    root = Path(output)
    contenders = read_contenders(config, overrides or [])
    guidance = check_contenders(contenders, measuring.guidance, device)
    budget = spending.of(contenders[0])
    with lock_folder(root, "compare"):
        claim_names(root, NOTE, "compare", [PAGE, PLOT])
        teacher = contenders[0].teacher().to(device).eval()
        features = pick_features(measuring.features, measuring.weights, teacher, device)
        yardstick = Yardstick(teacher, features, measuring.of(guidance), device)
        field = Field(budget, yardstick, device, root, seeds, rates, yardstick.by_steps, tell)
        with progress_bar(True) as bar:
            advance = starter(bar, 1)("measurements", field.count_points(len(contenders)))
            write_methods(field._replace(advance=advance), contenders)
    print(f"written: {root / PAGE}, {root / PLOT}, {root / NOTE}")


def tell(run: Run) -> None:
    """Say how a run has ended."""
    print(describe_run(run))


def write_methods(field: Field, contenders: Sequence[Contender]) -> None:
    """Run every contender, and write after each of them what is known so far."""
    teacher, floor = field.yardstick.teacher_by_steps(), field.yardstick.floor()
    methods: list[Method] = []
    for contender in contenders:
        methods.append(field.method(contender))
        known = MethodComparison(methods, teacher, floor, field.facts())
        files = {PAGE: comparison_markdown(known).encode(), PLOT: plot_comparison(known)}
        publish(field.root, NOTE, "compare", known.as_json(), files)


def check_lists(config: Sequence[str], seeds: Sequence[int], rates: Sequence[float]) -> None:
    """Refuse empty lists and values that stand twice (ValueError)."""
    for name, values in {"config": config, "seeds": seeds, "rates": rates}.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"expected --{name} to be one or more different values, got {values}")
    for rate in rates:
        check_numbers(0, without_low=True, rates=rate)


def read_contenders(config: Sequence[str], overrides: list[str]) -> list[Contender]:
    """Return the contenders, each with a name of its own.

    Raises:
        FileNotFoundError: no such config.
        ValueError: a config that distils no teacher.
    """
    contenders = [read_contender(words, overrides) for words in config]
    names = [contender.name for contender in contenders]
    return [
        each if names.count(each.name) == 1 else each._replace(name=name_of_path(each.words))
        for each in contenders
    ]


def name_of_path(words: str) -> str:
    """Return a name that tells configs of the same file name apart.

    >>> name_of_path("a/digits.yaml+b/tvm.yaml")
    'a-digits.yaml+b-tvm.yaml'
    """
    return words.strip("./").replace("/", "-")


def check_contenders(
    contenders: Sequence[Contender], guidance: float | None, device: torch.device
) -> float:
    """Build every contender once, before any is trained, and return the guidance of all samples.

    Raises:
        ValueError: settings that a recipe refuses, another teacher, or another guidance.
    """
    first = contenders[0]
    teachers, scales = set(), set()
    for contender in contenders:
        module = build_contender(contender)
        teachers.add(fingerprint(module.teacher.to(device), device))
        scales.add(float(module.evaluation_guidance))
        if len(teachers) > 1:
            raise ValueError(
                f"{contender.words} has another teacher than {first.words}: expected one teacher "
                f"for all methods"
            )
    if guidance is not None:
        check_numbers(0, guidance=guidance)
        return float(guidance)
    if len(scales) > 1:
        raise ValueError(
            f"the configs evaluate at different guidance scales, {sorted(scales)}: give --guidance"
        )
    return scales.pop()


def build_contender(contender: Contender) -> Distillation:
    """Return the module of a contender, after a look at its data and callbacks; errors name the
    config.
    """
    try:
        contender.data(0)
        contender.callbacks()
        contender.check_end()
        module = contender.module()
        module.draw(contender.batch_size, training_generator(0, 0, 0))
        return module
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{contender.words}:\n{error}") from error


main = partial(run, compare, usage=USAGE)
