"""The best of many noises by the student and a verifier, then the teacher from that noise."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from freeflow_lightning.commands.tasks.search_setting import (
    AlgorithmName,
    build_algorithm,
    final_sampler,
    pick_verifier,
)
from freeflow_lightning.commands.views.page import in_base64
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.commands.views.search import report_of, rows_of, search_tables
from freeflow_lightning.commands.views.tables import print_tables, table_text, tables_html
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.flow.solver import RuleName
from freeflow_lightning.sampling.draw import Draw, draws_pictures
from freeflow_lightning.sampling.draw_into import share_of
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.sampling.processes import Processes
from freeflow_lightning.students.expect_flow_map import expect_flow_map
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.posterior_draws import check_draws_posteriors
from freeflow_lightning.students.sampler_options import draw_of_options
from freeflow_lightning.students.search import Steering, Verifier
from freeflow_lightning.students.search.folder import PICTURE, SearchFolder
from freeflow_lightning.students.search.noise_search import NoiseSearch, freeze
from freeflow_lightning.students.search.parts import search_facts, search_part
from freeflow_lightning.students.search.steering import SteerBy
from freeflow_lightning.students.search.value_gradient import (
    check_value_gradient,
    scores_with_gradient,
)
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.folder_lock import lock_folder

OF_TEACHER = ("paths", "steer")
"""Algorithms that ask the teacher."""


@dataclass(frozen=True)
class SearchReport:
    """What a search found.

    Args:
        report: what search.json says: network evaluations, mean scores, scores by sample, classes.
        titles: the rows of samples by name, and what each holds.
        samples: of a search in memory, by row: pictures uint8 [n, C, H, W], or states; elsewhere
            the folder holds them.
        picture: the rows side by side, a PNG; empty for samples that are no pictures.
        folder: where all of it is; None for a search in memory.
    """

    report: Mapping[str, Any]
    titles: Mapping[str, str]
    samples: Mapping[str, Tensor]
    picture: bytes
    folder: Path | None = None

    @property
    def scores(self) -> dict[str, list[float]]:
        """The verifier's scores by row, one for each sample."""
        return dict(self.report["scores"])

    @property
    def nfe(self) -> dict[str, Any]:
        """Network evaluations of one sample and of all."""
        return dict(self.report["nfe"])

    def show(self) -> None:
        """Print the table."""
        print_tables(self._tables())

    def __str__(self) -> str:
        return table_text(self._tables())

    def _repr_html_(self) -> str:
        pictures = [in_base64(self.picture)] if self.picture else []
        return tables_html(self._tables(), pictures=pictures)

    def _tables(self) -> list[Any]:
        return search_tables(dict(self.report), dict(self.titles), self.report["samples"])


def search(
    flow_map: FlowMap,
    verifier: Verifier | None = None,
    guidance: float | None = None,
    num_samples: int = 64,
    *,
    candidates: int = 64,
    algorithm: AlgorithmName = "random",
    neighbours: int | None = None,
    radius: float | None = None,
    paths: int | None = None,
    branches: int | None = None,
    start_time: float | None = None,
    forward: float | None = None,
    backward: float | None = None,
    path_steps: int | None = None,
    draws: int | None = None,
    strength: float | None = None,
    steer_by: SteerBy | None = None,
    teacher_steps: int = 16,
    teacher_method: RuleName = "heun",
    steps: int = 1,
    sampler: SamplerName = "chain",
    noise_share: float | None = None,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    balanced: bool = False,
    compare: bool = True,
    output: str | Path | None = None,
    npz: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    decode_batch_size: int = 64,
    checkpoint: str = "the FlowMap",
    processes: Processes = Processes(),  # noqa: B008 (immutable)
) -> SearchReport:
    """Search for better noise with the student, then let the teacher draw from it (Fig. 8).

    Args:
        flow_map: the student, on the device to use; one that holds no teacher wants teacher_steps 0.
        verifier: (samples, condition) -> scores [B], higher is better; samples are uint8 pictures
            [B, C, H, W]. The digits' classifier for digits if not given.
        guidance: of student and teacher; the student's evaluation_guidance if not given.
        num_samples: samples to search for.
        candidates: noises per sample that the student tries.
        algorithm: "random" (best of N), "zero_order", "paths" or "steer".
        neighbours: of zero_order: noises tried around the pivot in one round.
        radius: of zero_order: size of the neighbourhood, above 0 to 1.
        paths: of paths: paths that are kept in each round.
        branches: of paths: branches of each path.
        start_time: of paths: time of the first branching, between 1 (noise) and 0.
        forward: of paths: time that a branch is noised up by.
        backward: of paths: time that the teacher leads it back by.
        path_steps: of paths: the teacher's steps from time 1 to 0 during the search.
        draws: of steer: posterior draws at each step, of the candidates.
        strength: of steer: how much a score weighs.
        steer_by: of steer: "weights" of the draws, or the "gradient" of the verifier.
        teacher_steps: the teacher's steps for the final sample; 0 keeps the student's.
        teacher_method: the teacher's one-step rule.
        steps: evaluations of the student per sample.
        sampler: how more than one are joined: chain, renoise or gamma.
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 to 1.
        seed: of all noise; sample i depends on the seed and i alone.
        classes: class labels, repeated in turn; drawn uniformly if not given.
        balanced: every class in turn, equally many of each.
        compare: draw the unsearched samples too.
        output: folder to write to, where an interrupted search goes on; memory if not given.
        npz: write samples.npz instead of single pictures.
        overwrite: remove what the folder's own notes list, and nothing else.
        batch_size: samples per network evaluation; has no influence on the result.
        decode_batch_size: samples that a latent teacher's decoder takes at once.
        checkpoint: what errors call the student.
        processes: that share the work; each calls this function with an output.

    Raises:
        ValueError: a teacher that the student does not hold, options without effect, or a folder
            that holds another search.
    """
    given: dict[str, Any] = {"neighbours": neighbours, "radius": radius}
    given |= {"paths": paths, "branches": branches, "start_time": start_time}
    given |= {"forward": forward, "backward": backward}
    given |= {"draws": draws, "strength": strength, "steer_by": steer_by}
    how = build_algorithm(algorithm, candidates, path_steps, given)
    expect_flow_map(flow_map)
    guidance = flow_map.evaluation_guidance if guidance is None else guidance
    final = final_sampler(flow_map, guidance, teacher_steps, teacher_method)
    refuse_search_without_teacher(
        flow_map, checkpoint, bool(teacher_steps) or algorithm in OF_TEACHER
    )
    flow_map.check_guidance(guidance)
    jumps = Jumps(steps, sampler, noise_share).at_trained_times(flow_map.trained)
    judge = freeze(pick_verifier(verifier, flow_map), flow_map.device)
    sizes = (batch_size, decode_batch_size)
    setting = NoiseSearch(flow_map, judge, how, final, path_steps or 8, *sizes, jumps)
    ratios = check_steering(setting)
    which = draw_of_options(flow_map.teacher, seed, classes, balanced)
    rows = rows_of(setting, algorithm, candidates, compare)
    facts = search_facts(setting, algorithm, which)
    flat = not draws_pictures(flow_map.teacher, flow_map.device)
    with TemporaryDirectory() as memory:
        place = Path(memory if output is None else output)
        folder = SearchFolder(
            place,
            num_samples,
            facts,
            rows,
            npz=npz or flat,
            num_classes=flow_map.teacher.num_classes,
        )
        made = fill_search(folder, setting, which, compare, processes, ratios, overwrite=overwrite)
        if output is not None:
            return replace(made, folder=place)
        rows_of_samples = folder.folders.items()
        return replace(made, samples={row: x.first(num_samples) for row, x in rows_of_samples})


def check_steering(setting: NoiseSearch) -> dict[float, float]:
    """Measure and say how right the gradient of a student's value is, if it is to steer.

    Raises:
        ValueError: a student that draws no posteriors, or whose gradient is too far off.
    """
    how = setting.algorithm
    if not isinstance(how, Steering):
        return {}
    check_draws_posteriors(setting.student.network)
    if how.steer_by == "weights":
        return {}
    score = scores_with_gradient(setting.verifier, setting.student.teacher)
    guidance = setting.sampler.guidance
    ratios = check_value_gradient(setting.student, score, guidance, how.strength)
    said = ", ".join(f"{ratio:.2f} at t = {t:g}" for t, ratio in ratios.items())
    print(f"grad V of the student over that of GLASS rollouts: {said}")
    return ratios


def refuse_search_without_teacher(student: FlowMap, checkpoint: str, is_asked: bool) -> None:
    """Raise a ValueError where a teacher is asked for that a student does not hold."""
    if isinstance(student.teacher, LatentSpace) and is_asked:
        raise ValueError(
            f"{checkpoint} holds no teacher: add --teacher_steps 0 (no paths, no steer), to keep the "
            f"student's samples"
        )


def fill_search(
    folder: SearchFolder,
    setting: NoiseSearch,
    which: Draw,
    compare: bool,
    processes: Processes,
    ratios: Mapping[float, float] | None = None,
    *,
    overwrite: bool,
) -> SearchReport:
    """Search for what the folder lacks, and read what it then holds; nothing on other processes than
    the first.
    """
    with lock_folder(folder.path, "search") if processes.first else nullcontext():
        if processes.first:
            folder.open(overwrite=overwrite)
        search_parts(folder, setting, which, compare, processes)
        if not processes.first:
            return SearchReport({}, folder.titles, {}, b"")
        count = next(iter(folder.folders.values())).count
        report = report_of(folder.records(), count)
        if ratios:
            report["grad V over the teacher's, by t"] = {f"{t:g}": r for t, r in ratios.items()}
        folder.finish(report)
        sheet = folder.path / PICTURE
        picture = sheet.read_bytes() if sheet.is_file() else b""
        return SearchReport(report, folder.titles, {}, picture)


def search_parts(
    folder: SearchFolder, setting: NoiseSearch, which: Draw, compare: bool, processes: Processes
) -> None:
    """Search for the samples of this process's parts, under a progress bar, and wait for others."""
    mine = share_of(folder, processes)
    with progress_bar(processes.first) as bar:
        total = sum(len(folder.indices(part)) for part in mine)
        task = bar.add_task("searching", total=total)
        for part in mine:
            search_part(folder, part, setting, which, compare)
            bar.advance(task, len(folder.indices(part)))
    processes.barrier()
