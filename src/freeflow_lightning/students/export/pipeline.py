"""An exported folder that diffusers opens too: DiffusionPipeline.from_pretrained(folder,
trust_remote_code=True).
"""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.students.export.bundle import bundle
from freeflow_lightning.students.export.card_front import trained_of
from freeflow_lightning.students.export.folder import WEIGHTS, write_weights
from freeflow_lightning.students.export.networks import find_foreign
from freeflow_lightning.teachers import LatentDecoder

NETWORK, PIPELINE = "flow_map_network", "flow_map_pipeline"
"""Files of code in the folder, and modules of this package."""
SAMPLERS = ("chain", "renoise")
"""What the pipeline can draw by."""
WEIGHTS_OF_MODEL = "network/diffusion_pytorch_model.safetensors"
HEAD = '"""The network of a flow map (freeflow-lightning, MIT). Needs torch and diffusers."""\n\n'


def add_pipeline(
    folder: Path,
    manifest: dict[str, Any],
    decoder: LatentDecoder | None,
    guidance_scale: float,
    jumps: Jumps = ONE_STEP,
) -> dict[str, Any]:
    """Make the folder of a student of pictures one that diffusers opens, with the code that this
    needs.

    The weights move to where diffusers looks for them; a VAE is loaded and stored.

    Args:
        folder: that `write_student` has filled.
        manifest: what it returned.
        decoder: of the latents; None where samples are pictures.
        guidance_scale: used by the pipeline where none is given.
        jumps: likewise.

    Returns:
        The manifest with the new place of the weights, to be sealed.

    Raises:
        ValueError: a student that is not for this pipeline: of prompts, of a network of one's own,
            not of pictures.
    """
    import diffusers  # noqa: PLC0415 (slow to import)

    refuse_unfit(manifest)
    if jumps.sampler not in SAMPLERS:
        raise ValueError(
            f"a diffusers pipeline draws by {' or '.join(SAMPLERS)}, got --sampler {jumps.sampler}"
        )
    if not hasattr(diffusers, "FlowMapEulerDiscreteScheduler"):
        raise ValueError(
            f"diffusers {diffusers.__version__} has no FlowMapEulerDiscreteScheduler: install a "
            f"newer version"
        )
    from freeflow_lightning.students.export.flow_map_network import FlowMapNetwork  # noqa: PLC0415 (imports diffusers)

    weights = load_file(folder / WEIGHTS)
    write_weights(
        folder / WEIGHTS_OF_MODEL, {f"student.{name}": tensor for name, tensor in weights.items()}
    )
    (folder / WEIGHTS).unlink()
    (folder / "network" / f"{NETWORK}.py").write_text(HEAD + bundle([FlowMapNetwork]))
    about = {"_class_name": "FlowMapNetwork", "_diffusers_version": diffusers.__version__}
    _write(folder / "network" / "config.json", about | {"description": manifest["network"]})
    shutil.copyfile(str(files(__package__) / f"{PIPELINE}.py"), folder / f"{PIPELINE}.py")
    scheduler: Any = diffusers.FlowMapEulerDiscreteScheduler()
    scheduler.save_pretrained(folder / "scheduler")
    index = describe_pipeline(manifest, guidance_scale, jumps)
    if decoder is not None:
        save_vae(decoder.network(), folder)
        index |= {"vae": ["diffusers", decoder.class_name]}
        index |= {"latent_scale": _plain(decoder.scale), "latent_shift": _plain(decoder.shift)}
    _write(folder / "model_index.json", index)
    return manifest | {"weights": [{"file": WEIGHTS_OF_MODEL, "prefix": "student."}]}


def describe_pipeline(
    manifest: dict[str, Any], guidance_scale: float, jumps: Jumps
) -> dict[str, Any]:
    """Return what model_index.json says of a pipeline without a VAE."""
    import diffusers  # noqa: PLC0415 (slow to import)

    trained = trained_of(manifest)
    return {
        "_class_name": [PIPELINE, "FlowMapPipeline"],
        "_diffusers_version": diffusers.__version__,
        "network": [NETWORK, "FlowMapNetwork"],
        "scheduler": ["diffusers", "FlowMapEulerDiscreteScheduler"],
        "vae": [None, None],
        "sample_shape": manifest["sample_shape"],
        "num_classes": manifest["conditions"].get("num_classes", 0),
        "guidance_range": manifest["guidance_range"],
        "guidance_scale": guidance_scale,
        "samplers": [name for name in SAMPLERS if name in trained.pairs.samplers],
        "start_times": list(trained.starts or ()),
        "num_inference_steps": jumps.steps,
        "sampler": jumps.sampler,
    }


def refuse_unfit(manifest: dict[str, Any]) -> None:
    """Say which students the pipeline cannot draw."""
    shape, own = manifest["sample_shape"], find_foreign(manifest["network"])
    if own:
        raise ValueError(
            f"a diffusers pipeline cannot hold the code of {own[0].class_path}: leave --pipeline "
            f"out"
        )
    if len(shape) != 3 or manifest["conditions"]["kind"] not in ("classes", "none"):
        raise ValueError(
            "a diffusers pipeline draws pictures from classes or nothing, and this student draws "
            f"samples of shape {shape} from "
            f"{manifest['conditions'].get('what', manifest['conditions']['kind'])}: leave "
            "--pipeline out"
        )
    decoder = manifest["decoder"]
    if manifest["left_out"] or (decoder is not None and decoder["kind"] != "vae"):
        raise ValueError(
            f"the pipeline cannot decode this student's samples "
            f"({'; '.join(manifest['left_out']) or decoder['kind']}): "
            "leave --pipeline out"
        )


def save_vae(vae: nn.Module, folder: Path) -> None:
    """Store a VAE of diffusers beside the student."""
    vae.save_pretrained(folder / "vae", safe_serialization=True)  # type: ignore[operator]  # a ModelMixin


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
