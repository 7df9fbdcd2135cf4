"""What the package ships of the faces: teacher and reference as small files, and how close they are.

python ship_assets.py teacher.safetensors faces.npz ASSETS
after python -m freeflow_lightning.examples.faces.classifier faces.npz ASSETS/faces_classifier.safetensors
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from freeflow_lightning.evaluation.reference import teacher_table
from freeflow_lightning.evaluation.shipped_tables import write_shipped
from freeflow_lightning.examples.faces.data import HELD_OUT_SAMPLES, hold_out_faces, read_faces
from freeflow_lightning.metrics import FacesFeatures, mean_and_covariance, to_uint8
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.teachers import SiTTeacher, load_sit, save_sit

SHIPPED_SAMPLES = 2000
SEED = 1  # PeriodicFID's
ROOT = Path(__file__).parents[3]


def write_teacher(source: str, target: Path) -> None:
    """Write the teacher in float16, and print how far its samples move."""
    velocity = load_sit(source)
    halves = {name: weight.half() for name, weight in velocity.net.state_dict().items()}
    save_sit(target, velocity, halves)
    first, second = SiTTeacher(source), SiTTeacher(target)
    z, condition = first.draw_indexed(torch.arange(128), seed=0, stream="ship")
    drawn = [TeacherSampler(teacher, "heun", 64)(z, condition) for teacher in (first, second)]
    error = (drawn[0] - drawn[1]).flatten(1).norm(dim=1) / drawn[0].flatten(1).norm(dim=1)
    levels = (to_uint8(drawn[0]).int() - to_uint8(drawn[1]).int()).abs()
    print(
        f"{target}: {target.stat().st_size / 2**20:.2f} MiB; relative error of samples "
        f"{error.mean():.1e}, at most {error.max():.1e}; {(levels <= 1).double().mean():.2%} of the "
        f"8-bit values move by at most one level"
    )


@torch.no_grad()
def write_reference(source: str, target: Path) -> None:
    """Write the first held-out faces, and the moments of all of them."""
    _, held_out = hold_out_faces(read_faces(source), HELD_OUT_SAMPLES)
    features = torch.cat([FacesFeatures()(part) for part in held_out.pictures.split(500)]).double()
    mean, covariance = mean_and_covariance(features.sum(0), features.mT @ features, len(features))
    pictures = held_out.pictures[:SHIPPED_SAMPLES].permute(0, 2, 3, 1).contiguous()
    np.savez_compressed(
        target,
        arr_0=pictures.numpy(),
        arr_1=held_out.labels[:SHIPPED_SAMPLES].numpy().astype(np.uint8),
        mu=mean.numpy(),
        sigma=covariance.numpy(),
    )
    print(f"{target}: {target.stat().st_size / 2**20:.2f} MiB")


def write_moments(teacher: Path, folder: Path) -> None:
    """Write the moments that configs/faces.yaml compares with, and those of its floor."""
    config = yaml.safe_load((ROOT / "configs" / "faces.yaml").read_text())
    callbacks = config["trainer"]["callbacks"]
    fid = next(each for each in callbacks if each["class_path"].endswith("PeriodicFID"))
    asked = fid["init_args"]
    sampler = TeacherSampler(SiTTeacher(teacher), asked["method"], asked["steps"])
    network = FacesFeatures()
    counts = {"reference": asked["reference_samples"]}
    counts["floor"] = config["data"]["init_args"]["val_samples"]
    for stream, count in counts.items():
        table = teacher_table(sampler, network, count=count, seed=SEED, stream=stream)
        assert table is not None  # one process
        path = write_shipped(folder, table, sampler, network, seed=SEED, stream=stream)
        print(f"{path}: {count} samples, {path.stat().st_size / 2**20:.2f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the shipped files of the faces.")
    parser.add_argument("teacher", help="teacher.safetensors of configs/faces_teacher.yaml")
    parser.add_argument("faces", help="file that rasterize.py wrote")
    parser.add_argument("assets", type=Path, help="folder to write to")
    options = parser.parse_args()
    write_teacher(options.teacher, options.assets / "faces_teacher.safetensors")
    write_reference(options.faces, options.assets / "faces_reference.npz")
    write_moments(options.assets / "faces_teacher.safetensors", options.assets / "moments")


if __name__ == "__main__":
    main()
