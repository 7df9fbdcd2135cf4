"""What a student needs beside its network, as plain values: conditions, the decoder of its samples;
and back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from freeflow_lightning.students.export.build_network import refuse_other_than_networks
from freeflow_lightning.teachers import (
    Conditions,
    DiffusersTeacher,
    EDMTeacher,
    Family,
    LatentDecoder,
    LatentSpace,
    SiTTeacher,
    Teacher,
)
from freeflow_lightning.teachers.diffusers.files import PipelineFiles
from freeflow_lightning.teachers.diffusers.layouts import LAYOUTS
from freeflow_lightning.teachers.diffusers.previews import PipelineDecoder

DECODER = ("vae", "scale", "shift", "chunk", "class_name", "subfolder", "revision")


class GivenConditions(Conditions):
    """Conditions that whoever samples has to give: a folder holds no prompts.

    Args:
        what: what they are, in words.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def describe(self) -> dict[str, Any]:
        return {"kind": "prompts", "what": self.what}

    def draw(self, n: int, generator: Generator) -> Any:
        raise ValueError(
            f"this exported student is conditioned on {self.what}, which its folder does not "
            "hold: give sample(n, condition), or from_pretrained(folder, "
            "conditions=Prompts(folder of embeddings)); on the command line --prompts FOLDER, "
            "which freeflow embed writes"
        )

    def null(self, condition: Any) -> Any:
        raise ValueError("an exported student is never asked for the null condition")


class Divided:
    """decode(x) = x / scale: EDM's data, whose unit is another.

    Args:
        scale: states are this many times the data.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        return x / self.scale


PLAIN = (Teacher.decode, EDMTeacher.decode)
"""Ways to decode that a folder can hold."""


def describe_decoder(teacher: Teacher) -> tuple[dict[str, Any] | None, list[str]]:
    """Return how samples become pictures (None: they are pictures), and what of it a folder cannot
    hold.
    """
    decoder: Any = None
    if isinstance(teacher, SiTTeacher | LatentSpace):
        decoder = teacher.vae
    if isinstance(teacher, DiffusersTeacher):
        decoder = teacher.decoder
    if isinstance(teacher, EDMTeacher) and teacher.data_scale != 1:
        decoder = Divided(teacher.data_scale)
    if decoder is not None:
        return _describe(decoder)
    if isinstance(teacher, SiTTeacher | LatentSpace) or type(teacher).decode in PLAIN:
        return None, []
    return None, [
        f"{type(teacher).__name__}.decode is code of your own: samples are states, not pictures"
    ]


def _describe(decoder: Any) -> tuple[dict[str, Any] | None, list[str]]:
    if isinstance(decoder, LatentDecoder):
        # None where the VAE's config says it
        given = {"scale": decoder.given_scale, "shift": decoder.given_shift}
        others = {name: getattr(decoder, name) for name in DECODER if name not in given}
        return {"kind": "vae"} | {name: _plain((given | others)[name]) for name in DECODER}, []
    if isinstance(decoder, Divided):
        return {"kind": "divided", "scale": decoder.scale}, []
    if isinstance(decoder, PipelineDecoder):
        own = {
            "model": decoder.files.model,
            "revision": decoder.files.revision,
            "vae": decoder.files.index.get("vae"),
        }
        return {
            "kind": "pipeline",
            **own,
            "layout": decoder.family.layout,
            "size": list(decoder.size),
        }, []
    return None, [
        f"the decoder is a {type(decoder).__qualname__} of your own: samples are states, not "
        f"pictures"
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def build_space(
    manifest: dict[str, Any], folder: Path, conditions: Conditions | None
) -> LatentSpace:
    """Shape, conditions and decoder of an exported student.

    Args:
        manifest: of the folder.
        folder: where it is.
        conditions: instead of those that the folder cannot hold.
    """
    about = manifest["conditions"]
    num_classes = about.get("num_classes", 0)
    made: Conditions | None = conditions
    if made is None and about["kind"] == "prompts":
        made = GivenConditions(about["what"])
    decoder = build_decoder(
        manifest["decoder"], folder, has_vae="vae/config.json" in manifest["files"]
    )
    return LatentSpace(tuple(manifest["sample_shape"]), num_classes, decoder, made)


def build_decoder(
    about: dict[str, Any] | None, folder: Path, *, has_vae: bool
) -> Callable[[Tensor], Tensor] | None:
    """Return the decoder of a description; a VAE is loaded for the first picture.

    Args:
        about: the description.
        folder: where it is.
        has_vae: whether the folder holds the VAE itself.

    Raises:
        ValueError: a class that is no network of diffusers.
    """
    if about is None:
        return None
    if about["kind"] == "divided":
        return Divided(about["scale"])
    if about["kind"] == "vae":
        refuse_other_than_networks(about["class_name"])
        arguments = {name: about[name] for name in DECODER}
        if has_vae:
            arguments |= {"vae": str(folder), "subfolder": "vae", "revision": None}
        return LatentDecoder(**arguments)
    if about["layout"] not in LAYOUTS:
        raise ValueError(
            f"this version has no layout {about['layout']!r}: install the one that wrote {folder}"
        )
    files = PipelineFiles(
        str(folder) if has_vae else about["model"],
        "",
        None,
        about["revision"],
        {"vae": about["vae"]},
    )
    return PipelineDecoder(files, Family(layout=about["layout"]), tuple(about["size"]))
