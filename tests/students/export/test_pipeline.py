"""The folder in the hands of diffusers, in a process that cannot import this package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.flow import renoise
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.students.export import seal
from freeflow_lightning.students.export.bundle import bundle
from freeflow_lightning.students.export.flow_map_network import MAKERS
from freeflow_lightning.students.export.pipeline import add_pipeline
from freeflow_lightning.teachers import LatentDecoder, LatentSpace, VelocityTeacher
from freeflow_lightning.teachers.network_arguments import ARGUMENTS
from students.export import students
from teachers.diffusers.test_previews import KL, vae

SCRIPT = """
import sys, torch
sys.modules["freeflow_lightning"] = None  # whoever imports it fails
from diffusers import DiffusionPipeline
found = {}
for name in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    z, labels = torch.load(f"{name}.pt")
    given = {"latents": z, "guidance_scale": 1.7} | ({} if labels is None else {"class_labels": labels})
    found[name] = [pipe(**given, output_type="latent").images, pipe(**given, output_type="pt").images]
    one = [pipe(num_images=2, generator=torch.Generator().manual_seed(0), output_type="pt").images for _ in "ab"]
    assert torch.equal(*one) and len(pipe(num_images=3).images) == 3
    assert pipe(**given).images[0].size == found[name][1].shape[:-3:-1]
    try:
        pipe(class_labels=[99])
    except ValueError as error:
        assert "class_labels" in str(error)
    else:
        raise AssertionError
torch.save(found, "found.pt")
"""
KINDS = {
    "sit": students.sit,
    "official": students.official,
    "edm": students.edm,
    "ddpm": students.ddpm,
    "latent": students.sit,
}


def write(name, made, folder, decoder=None, jumps=ONE_STEP, **more):
    """A folder with a pipeline."""
    folder.mkdir()
    manifest = add_pipeline(folder, made.write_to(folder, **more), decoder, 1.5, jumps)
    seal(folder, manifest)
    return manifest


def without_package(script, *arguments, cwd):
    """Run a script where the package's source is not on the path and its import fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env=environment | {"HF_HOME": str(cwd / "hf"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_pictures_from_a_process_without_this_package(tmp_path):
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    vae("AutoencoderKL", **(KL | {"latent_channels": 3})).save_pretrained(tmp_path / "decoder")
    latent = LatentDecoder(tmp_path / "decoder", scale=[0.5, 1.0, 2.0], shift=[0.1, 0.2, 0.3])
    made = {"sit": students.sit(), "official": students.official(), "latent": students.sit()}
    made["latent"].teacher.vae = latent
    expected = {}
    for name, student in made.items():
        write(name, student, tmp_path / name, latent if name == "latent" else None)
        z, labels = torch.randn(4, 3, 4, 4), torch.tensor([0, 4, 2, 2])
        torch.save((z, labels), tmp_path / f"{name}.pt")
        expected[name] = student(z, labels, 1.7)
    shutil.rmtree(tmp_path / "decoder")  # the folder has its own
    without_package(SCRIPT, *made, cwd=tmp_path)
    found = torch.load(tmp_path / "found.pt")
    for name, student in made.items():
        assert torch.equal(found[name][0], expected[name])
        again = FlowMap.from_pretrained(tmp_path / name)  # and this package reads the same files
        assert torch.equal(again.sample(3), student.sample(3))
        pictures = again.teacher.decode(expected[name])
        torch.testing.assert_close(
            found[name][1], (pictures / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_the_pipeline_takes_the_steps_that_the_student_was_trained_for(tmp_path):
    """In this process, by the folder's own two files."""
    from diffusers import DiffusionPipeline

    made, z, labels = students.sit(), torch.randn(4, 3, 4, 4), torch.tensor([0, 4, 2, 2])
    given = {"latents": z, "class_labels": labels, "guidance_scale": 1.7, "output_type": "latent"}
    made.about["pairs"] = "any to any"
    write("sit", made, tmp_path / "out", jumps=Jumps(2))
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    for steps in (1, 2, 3, 4):
        x = made.jump(z, labels, 1.7, Jumps(steps))
        torch.testing.assert_close(
            pipe(**given, num_inference_steps=steps).images, x, atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(
        pipe(**given).images, made.jump(z, labels, 1.7, Jumps(2)), atol=1e-5, rtol=1e-4
    )
    g = torch.Generator().manual_seed(0)
    n = torch.randn(z.shape, generator=g)
    anew = pipe(**given, sampler="renoise", generator=g.manual_seed(0)).images
    x = 0.5 * made(z, labels, 1.7) + 0.5 * n
    half = torch.full((4,), 0.5)
    x = x + 0.5 * made.network(x, half, labels, delta=half, gamma=torch.full((4,), 1.7))
    torch.testing.assert_close(anew, x, atol=1e-5, rtol=1e-4)

    for starts, known in (((1.0, 0.75, 0.5, 0.25), "1 or 2 or 4"), ((1.0, 0.6), "1 or 2")):
        pipe.register_to_config(start_times=list(starts))
        made.about |= {"pairs": "any to data", "starts": starts}
        with pytest.raises(ValueError, match=f"num_inference_steps {known}, whose times .* got 3"):
            pipe(**given, num_inference_steps=3)
        two = {"num_inference_steps": 2, "sampler": "renoise"}
        x = pipe(**given, **two, generator=g.manual_seed(0)).images
        half = torch.full((4,), 0.5 if len(starts) == 4 else 0.6)
        y = renoise(made(z, labels, 1.7), n, half)
        y = y + half[0] * made.network(y, half, labels, delta=half, gamma=torch.full((4,), 1.7))
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)

    one = students.sit()
    write("sit", one, tmp_path / "one")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "one", trust_remote_code=True)
    with pytest.raises(
        ValueError, match=r"expected num_inference_steps 1, .* got 2 steps by 'chain'"
    ):
        pipe(**given, num_inference_steps=2)


def test_every_class_that_a_folder_describes_is_in_the_code_that_travels():
    diffusers_own = {"DiffusersVelocity", "DiffusersNetwork"}
    assert {kind.__name__ for kind in ARGUMENTS} - diffusers_own == MAKERS.keys() - {"Tensor"}


@pytest.mark.parametrize("name", ["SiT", "official", "MLP", "LoRA", "SiT of REPA"])
def test_the_code_that_travels_makes_the_same_samples(name, tmp_path):
    from freeflow_lightning.nets import merge
    from freeflow_lightning.students.export.flow_map_network import FlowMapNetwork

    text = bundle([FlowMapNetwork])
    assert "freeflow_lightning" not in text
    space = {"__name__": "travelled"}
    exec(compile(text, "flow_map_network.py", "exec"), space)
    made = students.STUDENTS[name]()
    manifest = made.save_pretrained(tmp_path / "out")
    student = space["make"](manifest["network"]).eval()
    student.load_state_dict(merge(made.network).state_dict())
    z, labels = torch.randn(3, *made.teacher.sample_shape), torch.tensor([0, 1, 0])
    one = torch.ones(3)
    again = FlowMap.from_pretrained(tmp_path / "out")
    assert torch.equal(
        z + student(z, one, labels, delta=one, gamma=1.5 * one), again(z, labels, 1.5)
    )


def test_what_is_no_student_of_pictures_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"cannot hold the code of students.export.students.Own: leave --pipeline out",
    ):
        write("own", students.STUDENTS["own network"](), tmp_path / "own", network_arguments={})
    with pytest.raises(
        ValueError, match=r"draws pictures from classes or nothing, .* shape \[2\] from classes"
    ):
        write("mlp", students.mlp(), tmp_path / "mlp")
    net = students.sit().network

    class Mine(VelocityTeacher):
        def decode(self, x):
            return -x

    own = FlowMap(net, Mine(net.backbone, (3, 4, 4), 5))
    with pytest.raises(
        ValueError, match=r"cannot decode this student's samples \(Mine.decode is code of your own"
    ):
        write("decoder", own, tmp_path / "decoder")


def test_the_folder_is_whole(tmp_path):
    space = LatentSpace((3, 4, 4), 5, None)
    write("sit", FlowMap(students.sit().network, space, (1.0, 2.0)), tmp_path / "out")
    names = json.loads((tmp_path / "out" / "freeflow.json").read_text())["files"]
    there = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in Path(tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert there == names.keys() | {"freeflow.json"}
    assert {"flow_map_pipeline.py", "network/flow_map_network.py", "model_index.json"} <= there
    for name in names:
        content = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(content + b" ")
        with pytest.raises(
            ValueError, match=f"{name.rpartition('/')[2]} in .* is not the file that was exported"
        ):
            FlowMap.from_pretrained(tmp_path / "out")
        (tmp_path / "out" / name).write_bytes(content)
    FlowMap.from_pretrained(tmp_path / "out")
