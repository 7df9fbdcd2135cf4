"""An exported student of a diffusers network as its family's own pipeline: a stock network, a fixed
number of steps, no code in the folder.

At one delta and one gamma the student's extra embeddings are constants, added to the time
embedding's output. They are folded into the bias of its last layer, so that the stock network is
the student. A chain of k steps along the uniform grid asks for delta = 1/k alone: k Euler steps of
the stock scheduler between the noise levels 1, 1 - 1/k, ..., 0 are the chain, for this k.
"""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.students.export.fold import apply_fold, check_fold, fold
from freeflow_lightning.students.export.folder import WEIGHTS, write_weights
from freeflow_lightning.students.export.networks import subfolder_of
from freeflow_lightning.students.export.student import diffusers_part
from freeflow_lightning.teachers import DiffusersTeacher
from freeflow_lightning.teachers.diffusers.files import PipelineFiles, load_scheduler_config

EULER = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
"""Of a FlowMatchEulerDiscreteScheduler that takes the noise levels as they are given, or one
step.
"""
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


def add_stock_pipeline(
    folder: Path,
    manifest: dict[str, Any],
    network: ScalarConditioned,
    teacher: DiffusersTeacher,
    gamma: float,
    parts: bool,
    jumps: Jumps = ONE_STEP,
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
        jumps: the steps that are folded in.

    Raises:
        ValueError: no pipeline that fits or takes these steps, or folded biases that do not give
            the student.
    """
    refuse_without_pipeline(teacher)
    refuse_steps(teacher, jumps)
    found = diffusers_part(network)
    assert found is not None  # a DiffusersTeacher's student
    path, net = found
    folded = fold(network, gamma, 1 / jumps.steps)
    state = network.state_dict()
    with apply_fold(network, folded):
        for k in range(jumps.steps):
            check_fold(network, teacher, gamma, folded, 1 - k / jumps.steps, 1 / jumps.steps)
        net.save_pretrained(folder / subfolder_of(net), safe_serialization=True)
    own = {name: tensor for name, tensor in state.items() if not name.startswith(f"{path}.")}
    write_weights(folder / WEIGHTS, own | folded.before)
    save_scheduler(folder, teacher)
    write_index(folder, teacher, subfolder_of(net), parts)
    return manifest | {
        "call": call_of(teacher, gamma, jumps.steps),
        "folded_guidance": None if "gamma" in network.native else gamma,
    }


def refuse_without_pipeline(teacher: DiffusersTeacher) -> None:
    """Raise a ValueError where a network has no pipeline that can draw with it."""
    if not teacher.pipeline.index:
        raise ValueError(
            f"{teacher.pipeline.model} holds a network alone, and a pipeline needs its other "
            f"parts: leave --pipeline out"
        )
    if teacher.pipeline.class_name in UNFIT:
        raise ValueError(
            f"{teacher.pipeline.class_name}: {UNFIT[teacher.pipeline.class_name]}; leave "
            f"--pipeline out"
        )


def write_index(folder: Path, teacher: DiffusersTeacher, network: str, parts: bool) -> None:
    """Write model_index.json, and the components that it names if they are to be taken along."""
    index = teacher.pipeline.index
    kept = {
        name: part for name, part in index.items() if isinstance(part, list) and part[0] is not None
    }
    others = [name for name in kept if name not in (network, "scheduler")]
    if parts:
        copy_parts(teacher.pipeline, others, folder)
    left_out = {} if parts else {name: [None, None] for name in others}
    own = {"scheduler": ["diffusers", _scheduler_kind(teacher)]}
    text = json.dumps(index | left_out | own, indent=2)
    (folder / "model_index.json").write_text(text + "\n")
    if "guider" in kept and parts:
        _set_guider(folder / "guider")


def refuse_steps(teacher: DiffusersTeacher, jumps: Jumps) -> None:
    """Raise a ValueError for more than one step where the family's pipeline cannot take them."""
    if jumps.steps == 1:
        return
    name = teacher.pipeline.index["_class_name"]
    if jumps.sampler != "chain" or teacher.family.prediction != "flow" or not takes_sigmas(name):
        raise ValueError(
            f"{name} of diffusers takes more than one step of a flow alone, as a chain, and where "
            f"it can be told the noise levels (sigmas): leave --steps or --pipeline out"
        )


def takes_sigmas(pipeline: str) -> bool:
    """Return whether a pipeline of diffusers can be told the noise levels of its steps."""
    import diffusers  # noqa: PLC0415 (slow to import)

    kind = getattr(diffusers, pipeline, None)
    return kind is not None and "sigmas" in inspect.signature(kind.__call__).parameters


def call_of(teacher: DiffusersTeacher, gamma: float, steps: int = 1) -> dict[str, Any]:
    """Return the arguments with which the pipeline takes its steps and asks the network once for
    each.
    """
    scale = gamma if teacher.embedded else 1.0 - teacher.family.guidance_offset
    named = {
        "QwenImageTransformer2DModel": {"true_cfg_scale": 1.0},
        "HunyuanImageTransformer2DModel": {},
    }
    way: dict[str, Any] = {"num_inference_steps": steps}
    if steps > 1:
        way["sigmas"] = [1 - k / steps for k in range(steps)]
    return way | named.get(teacher.pipeline.class_name, {"guidance_scale": scale})


def _scheduler_kind(teacher: DiffusersTeacher) -> str:
    if teacher.family.prediction == "flow":
        return "FlowMatchEulerDiscreteScheduler"
    return "DDIMScheduler"


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
        } | EULER
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
