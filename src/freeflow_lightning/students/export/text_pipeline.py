"""An exported student of a diffusers network as its family's own pipeline: a stock network, one
step, no code in the folder.

At delta = 1 and one gamma the student's extra embeddings are constants, added to the time
embedding's output. They are folded into the bias of its last layer, so that the stock network at
the prior's time is the student. One Euler step of the stock scheduler, from noise level 1 to 0, is
then z + F.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn

from freeflow_lightning.nets import ScalarConditioned, time_embeddings
from freeflow_lightning.students.export.folder import WEIGHTS, write_weights
from freeflow_lightning.students.export.networks import subfolder_of
from freeflow_lightning.students.export.student import diffusers_part
from freeflow_lightning.teachers import DiffusersTeacher
from freeflow_lightning.teachers.diffusers.files import PipelineFiles, load_scheduler_config

ONE_STEP = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
"""Of a FlowMatchEulerDiscreteScheduler whose single step goes from noise level 1 to 0."""
DDIM = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
BETAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
)


UNFIT = {"MochiTransformer3DModel": "its pipeline's schedule divides by zero for one step"}
"""Networks that can be folded, and whose pipeline of diffusers 0.42 takes no single step."""


class Fold(NamedTuple):
    """The biases of a network that take the constant embeddings up: by path, before and after."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]


@torch.no_grad()
def fold(network: ScalarConditioned, gamma: float) -> Fold:
    """Biases with the embeddings of delta = 1 and of gamma in them, by their path in the student.

    Raises:
        ValueError: a time embedding whose last linear layer has no bias.
    """
    device = next(network.parameters()).device
    values = {
        "delta": torch.ones(1, device=device),
        "gamma": torch.full((1,), gamma, device=device),
    }
    constant = sum(
        (embedder(values[name])[0] for name, embedder in network.embedders.items()),
        torch.zeros((), device=device),
    )
    before, after = {}, {}
    for path, leaf in time_embeddings(network.backbone, network.time_module).items():
        name, last = [
            (name, module) for name, module in leaf.named_modules() if isinstance(module, nn.Linear)
        ][-1]
        if last.bias is None:
            raise ValueError(
                f"the time embedding {path!r} ends without a bias, into which delta and gamma "
                f"could be folded"
            )
        key = ".".join(part for part in ("backbone", path, name, "bias") if part)
        before[key] = last.bias.clone()
        after[key] = (last.bias.to(constant.dtype) + constant).to(last.bias.dtype)
    return Fold(before, after)


def add_stock_pipeline(
    folder: Path,
    manifest: dict[str, Any],
    network: ScalarConditioned,
    teacher: DiffusersTeacher,
    gamma: float,
    parts: bool,
) -> dict[str, Any]:
    """Turn an exported student of a diffusers network into a folder of its family's pipeline.

    `FlowMap.from_pretrained` still finds the student with all its gammas: the biases from before
    are kept beside.

    Args:
        folder: that `write_student` has filled.
        manifest: what it returned.
        network: the student, without an adapter.
        teacher: names the pipeline whose other components are taken along.
        gamma: guidance scale that is folded in.
        parts: copy text encoders, tokenizers and VAE; else the folder holds network and scheduler
            alone.

    Raises:
        ValueError: no pipeline that fits, or folded biases that do not give the student.
    """
    index = teacher.pipeline.index
    if not index:
        raise ValueError(
            f"{teacher.pipeline.model} holds a network alone, and a pipeline needs its other "
            f"parts: leave --pipeline out"
        )
    if teacher.pipeline.class_name in UNFIT:
        raise ValueError(
            f"{teacher.pipeline.class_name}: {UNFIT[teacher.pipeline.class_name]}; leave "
            f"--pipeline out"
        )
    found = diffusers_part(network)
    assert found is not None  # a DiffusersTeacher's student
    path, net = found
    folded = fold(network, gamma)
    state = network.state_dict()
    _set(network, folded.after)
    try:
        check_fold(network, teacher, gamma, folded)
        net.save_pretrained(folder / subfolder_of(net), safe_serialization=True)
    finally:
        _set(network, folded.before)
    own = {name: tensor for name, tensor in state.items() if not name.startswith(f"{path}.")}
    write_weights(folder / WEIGHTS, own | folded.before)
    save_scheduler(folder, teacher)
    kept = {
        name: part for name, part in index.items() if isinstance(part, list) and part[0] is not None
    }
    others = [name for name in kept if name not in (subfolder_of(net), "scheduler")]
    if parts:
        copy_parts(teacher.pipeline, others, folder)
    left_out = {} if parts else {name: [None, None] for name in others}
    kind = _scheduler_kind(teacher)
    (folder / "model_index.json").write_text(
        json.dumps(index | left_out | {"scheduler": ["diffusers", kind]}, indent=2) + "\n"
    )
    if "guider" in kept and parts:
        _set_guider(folder / "guider")
    return manifest | {
        "call": one_step_call(teacher, gamma),
        "folded_guidance": None if "gamma" in network.native else gamma,
    }


def one_step_call(teacher: DiffusersTeacher, gamma: float) -> dict[str, float]:
    """The arguments with which the pipeline takes one step and asks the network once."""
    scale = gamma if teacher.embedded else 1.0 - teacher.family.guidance_offset
    named = {
        "QwenImageTransformer2DModel": {"true_cfg_scale": 1.0},
        "HunyuanImageTransformer2DModel": {},
    }
    return {"num_inference_steps": 1} | named.get(
        teacher.pipeline.class_name, {"guidance_scale": scale}
    )


def check_fold(
    network: ScalarConditioned, teacher: DiffusersTeacher, gamma: float, folded: Fold
) -> None:
    """See that the folded network is the student (Raises: ValueError)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, *teacher.sample_shape, generator=generator)
    condition = teacher.draw_condition(2, generator)
    device = next(network.parameters()).device
    z, one = z.to(device), torch.ones(2, device=device)
    own = {name: gamma * one for name in network.native if name == "gamma"}
    with torch.no_grad():
        stock = network.backbone(z, one, condition, **own)
        _set(network, folded.before)
        student = network(z, one, condition, delta=one, gamma=gamma * one)
        _set(network, folded.after)
    gap, size = float((stock - student).abs().max()), float(student.abs().max())
    tolerance = (
        2e-2 if next(network.parameters()).dtype in (torch.bfloat16, torch.float16) else 1e-3
    )
    if not gap <= tolerance * size:
        raise ValueError(
            f"delta and gamma cannot be folded into the time embedding of "
            f"{teacher.pipeline.class_name}: its stock network "
            f"would give other samples (difference {gap:.2g} of {size:.2g}); leave --pipeline out"
        )


@torch.no_grad()
def _set(network: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        network.get_parameter(name).copy_(value)


def _scheduler_kind(teacher: DiffusersTeacher) -> str:
    return (
        "FlowMatchEulerDiscreteScheduler"
        if teacher.family.prediction == "flow"
        else "DDIMScheduler"
    )


def save_scheduler(folder: Path, teacher: DiffusersTeacher) -> None:
    """The scheduler whose one step is the student's: Euler's for flows, DDIM's from the last step
    for the others.
    """
    import diffusers  # noqa: PLC0415 (slow to import)

    given = load_scheduler_config(teacher.pipeline)
    kind: Any = getattr(diffusers, _scheduler_kind(teacher))
    if teacher.family.prediction == "flow":
        settings = {
            key: given[key] for key in ("num_train_timesteps", "invert_sigmas") if key in given
        } | ONE_STEP
    else:
        settings = {key: given[key] for key in BETAS if key in given} | DDIM
    kind(**settings).save_pretrained(folder / "scheduler")


def copy_parts(files: PipelineFiles, names: list[str], folder: Path) -> None:
    """The other components of a pipeline, from its folder or from the hub.

    Raises:
        FileNotFoundError: the hub cannot be reached and the cache does not hold them.
    """
    source = Path(files.model)
    if not source.is_dir():
        try:
            source = Path(
                snapshot_download(
                    files.model, revision=files.revision, allow_patterns=[f"{n}/*" for n in names]
                )
            )
        except Exception as error:
            raise FileNotFoundError(
                f"the pipeline's other parts ({', '.join(names)}) of {files.model} cannot be "
                f"fetched ({error}): leave them out with --parts false, and pass them to the "
                "pipeline"
            ) from error
    for name in names:
        shutil.copytree(source / name, folder / name, dirs_exist_ok=True)


def _set_guider(folder: Path) -> None:
    """Let a pipeline's guider ask the network once."""
    path = next(folder.glob("*.json"))
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"guidance_scale": 1.0}, indent=2) + "\n"
    )
