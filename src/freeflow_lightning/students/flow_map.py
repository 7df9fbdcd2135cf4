"""FlowMap: a trained student that is read from its files, and written to a folder or to the hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
import torch
from torch import nn

from freeflow_lightning.students.draw_samples import draw_samples
from freeflow_lightning.students.export import (
    PICTURE,
    UNKNOWN,
    push_folder,
    seal,
    write_card,
)
from freeflow_lightning.students.export.hub import MESSAGE
from freeflow_lightning.students.export.read_exported import read_exported
from freeflow_lightning.students.export.write_exported import write_exported, write_student_folder
from freeflow_lightning.students.official_convention import OfficialConvention
from freeflow_lightning.students.official_weights import VAE, read_official
from freeflow_lightning.students.student import Student
from freeflow_lightning.students.student_map import StudentMap
from freeflow_lightning.students.training_checkpoint import read_training_checkpoint
from freeflow_lightning.teachers import Conditions, LatentDecoder, Teacher
from freeflow_lightning.teachers.reading.hub import HubAccess


class FlowMap(StudentMap):
    """f(z, 1) = z + F(z, 1, c, delta = 1, gamma), with what is needed to draw and decode its
    samples.

    Args:
        network: the student, (x, t, condition, delta=, gamma=) -> F.
        teacher: gives shapes, conditions and the decoder; its velocity is not used.
        guidance_range: the gammas that the student was trained for.
        about: where the student comes from, as plain values: what an exported folder says of it.
    """

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        average: str | None = None,
        ema_length: float | None = None,
        teacher: Teacher | None = None,
        network: nn.Module | None = None,
        trust: str | Sequence[str] | None = None,
    ) -> "FlowMap":
        """Return the student of a training checkpoint, from its first average (or the one named) if
        it has any.

        A checkpoint says what its student was made of. Only the student's own weights are read, not
        the optimizer's state.

        Args:
            path: a checkpoint that `freeflow fit` or a Trainer wrote, a file or a folder, or a
                run's folder, for its last one. Nothing in it is executed.
            average: name of the average, for example "ema_0_9999", or "raw" for the trained weights
                themselves.
            ema_length: instead, the length of an average that is made of the snapshots of
                PostHocEMA, as a share of the run in (0, 0.2886].
            teacher: takes the place of the recorded one; needed where the checkpoint cannot say it.
            network: the same for the network that the student started from, with any weights.
            trust: class paths outside this package that the checkpoint may import.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of a Distillation, an unknown average, or something that it
                cannot say.
        """
        return cls(
            *read_training_checkpoint(
                path,
                average=average,
                ema_length=ema_length,
                teacher=teacher,
                network=network,
                trust=trust,
            )
        )

    @classmethod
    def from_official(
        cls,
        path: str | Path,
        convention: OfficialConvention = OfficialConvention(),  # noqa: B008 (frozen)
        *,
        vae: str | LatentDecoder | None = VAE,
        guidance_range: tuple[float, float] = (1.0, 2.0),
        num_heads: int | None = None,
        input_size: int | None = None,
    ) -> "FlowMap":
        """Return a student from the FreeFlow authors' weights: a SiT with one embedder each of
        delta and gamma.

        Args:
            path: .pt, .pth, .ckpt or .safetensors. Nothing in it is executed.
            convention: how to read it; what is "auto" is measured and said.
            vae: what decodes its latents, loaded for the first picture; None shows the latents.
            guidance_range: the gammas it was trained for (Table 6).
            num_heads: attention heads, where the width is none of the published ones.
            input_size: side of the latents, only for a file without position embedding: 32 at 256,
                64 at 512.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, embedders that are not recognised, or an "auto" that the
                samples do not decide.
        """
        student = read_official(
            path,
            convention,
            vae=vae,
            guidance_range=guidance_range,
            num_heads=num_heads,
            input_size=input_size,
        )
        return cls(*student)

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        conditions: Conditions | None = None,
        network: nn.Module | None = None,
        trust: str | Sequence[str] | None = None,
    ) -> "FlowMap":
        """Return the student of a folder that `save_pretrained` or `freeflow export` wrote, without
        its teacher.

        Every file is checked against its hash, and nothing in the folder is executed. A network
        that is not of this package or of diffusers is only made from what you hand over: the
        network itself, or your leave to import its class.

        Args:
            place: a folder, or a hub repository ("owner/name").
            revision: commit, tag or branch of the repository; a commit pins it.
            token: with read access; the one of `hf auth login` or $HF_TOKEN if not given.
            cache_dir: where files of the hub are kept; $HF_HOME/hub if not given.
            local_files_only: look into that cache alone.
            dtype: of the student's weights; as they were exported if not given.
            device: to move it to; the CPU if not given.
            conditions: for a student of prompts, Prompts("folder that freeflow embed wrote").
            network: for a student of your own network, that network with any weights.
            trust: or the class paths that may be imported for it, exactly as the folder names them.

        Raises:
            FileNotFoundError: no such folder or repository, or one that lacks a file.
            ValueError: a changed file, weights that do not fit, or a network of one's own without
                `network` or `trust`.
        """
        hub = HubAccess(revision, cache_dir, local_files_only, token)
        made = cls(
            *read_exported(place, hub=hub, conditions=conditions, network=network, trust=trust)
        )
        if dtype is not None:
            made.network.to(dtype)
        return made if device is None else made.to(device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        network_arguments: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write the student into a folder for `from_pretrained`, and see that it comes back bit for
        bit.

        An adapter is merged into a network that stands alone, which agrees with it up to rounding.

        Args:
            folder: to write to; made if it does not exist.
            network_arguments: constructor arguments of a network of your own, where the config does
                not name them.
            overwrite: replace an exported student that the folder holds.

        Returns:
            What freeflow.json says.

        Raises:
            ValueError: the folder is not empty, or a part of the student that a folder cannot hold.
        """
        with write_exported(Path(folder), overwrite) as made:
            return self.write_to(made, network_arguments)

    def write_to(
        self, folder: Path, network_arguments: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """`save_pretrained` into an empty folder, without its guard."""
        student = Student(self.network, self.teacher, self.guidance_range, self.about)
        return write_student_folder(student, folder, network_arguments)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        licence: str = UNKNOWN,
        private: bool = False,
        token: str | None = None,
        commit_message: str = MESSAGE,
        create_pr: bool = False,
        revision: str | None = None,
        network_arguments: Mapping[str, Any] | None = None,
        api: "huggingface_hub.HfApi | None" = None,
    ) -> str:
        """Export the student with a model card and upload it; `freeflow export --push` can do more.

        Args:
            repo_id: "owner/name", made if it is not there.
            licence: of the teacher's weights, which holds for the student's too.
            private: whether a new repository is private.
            token: with write access; the one of `hf auth login` or $HF_TOKEN if not given.
            commit_message: of the commit.
            create_pr: propose the commit in a pull request, rather than make it.
            revision: branch that it goes to; the repository's main one if not given.
            network_arguments: as in `save_pretrained`.
            api: of the hub.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ValueError: no permission, no network, or a part of the student that a folder cannot
                hold.
        """
        with TemporaryDirectory() as place:
            folder = Path(place) / "student"
            folder.mkdir()
            manifest = self.write_to(folder, network_arguments)
            draw_samples(self, folder / PICTURE)
            write_card(folder, seal(folder, manifest), licence, repo_id)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                create_pr=create_pr,
                revision=revision,
                api=api,
            )
