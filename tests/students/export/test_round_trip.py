"""Every kind of student through a folder and back: the same samples, bit for bit, and nothing executed or taken on trust."""

import json
import shutil
import sys

import pytest
import torch
from torch import nn

from freeflow_lightning import FlowMap
from freeflow_lightning.examples.own_network import FOLDER
from freeflow_lightning.nets import ScalarConditioned, merge
from freeflow_lightning.students.export import find_foreign
from freeflow_lightning.students.export.folder import seal
from freeflow_lightning.teachers import (
    GaussianPath,
    LatentDecoder,
    LatentSpace,
    PathTeacher,
    SiTVelocity,
    VelocityTeacher,
)
from nets.random_weights import tiny_sit
from students.export import students
from students.export.students import STUDENTS


def opened(folder, made):
    mine = find_foreign(json.loads((folder / "freeflow.json").read_text())["network"])
    return FlowMap.from_pretrained(folder, trust=mine[0].class_path if mine else None)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_same_samples_bit_for_bit(name, tmp_path):
    made = STUDENTS[name]()
    own = {} if name in ("EDM", "DDPM", "own network") or "path" in name else None
    made.save_pretrained(tmp_path / "out", network_arguments={"out": 2} if name == "DDPM" else own)
    again = opened(tmp_path / "out", made)
    alone = FlowMap(merge(made.network), made.teacher, made.guidance_range)
    for guidance in (1.0, 1.7):
        x = again.sample(9, guidance=guidance)
        assert torch.equal(x, alone.sample(9, guidance=guidance))
        torch.testing.assert_close(
            x, made.sample(9, guidance=guidance)
        )  # an adapter is merged up to rounding
    assert torch.equal(again.teacher.decode(x), made.teacher.decode(x))
    assert not torch.equal(again.sample(9, guidance=1.0), x)
    z = torch.randn(2, *made.teacher.sample_shape)
    condition = torch.tensor([1, 0]) if made.teacher.num_classes else None
    assert torch.equal(again(z, condition, delta=0.3), alone(z, condition, delta=0.3))
    assert again.guidance_range == (1.0, 2.0)
    assert not again.network.training
    twice = again.save_pretrained(
        tmp_path / "twice", network_arguments={"out": 2} if name == "DDPM" else own
    )  # an exported student can be exported
    assert (
        twice["weights_hash"]
        == json.loads((tmp_path / "out" / "freeflow.json").read_text())["weights_hash"]
    )


def test_types_of_weights_are_kept(tmp_path):
    made = students.sit()
    made.network.to(torch.bfloat16)
    made.save_pretrained(tmp_path / "out")
    again = FlowMap.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in again.network.parameters()} == {torch.bfloat16}


def test_conditions_shapes_and_decoder_come_without_the_teacher(tmp_path):
    made = students.sit()
    made.teacher.vae = LatentDecoder(
        "some/vae", scale=[1.0, 2.0, 3.0], shift=0.5, class_name="AutoencoderTiny"
    )
    made.save_pretrained(tmp_path / "out")
    space = FlowMap.from_pretrained(tmp_path / "out").teacher
    assert isinstance(space, LatentSpace)
    assert (space.sample_shape, space.num_classes) == (made.teacher.sample_shape, 5)
    for name in ("vae", "scale", "shift", "class_name"):
        assert getattr(space.vae, name) == getattr(made.teacher.vae, name)


class OwnDecoder(VelocityTeacher):
    def decode(self, x):
        return 2 * x


def test_what_cannot_be_held_is_said_or_refused(tmp_path):
    net = STUDENTS["SiT"]().network
    shape = net.backbone.net.sample_shape
    said = FlowMap(net, OwnDecoder(net.backbone, shape, 5)).save_pretrained(tmp_path / "out")
    assert said["left_out"] == [
        "OwnDecoder.decode is code of your own: samples are states, not pictures"
    ]

    class Mine(GaussianPath):
        def tau(self, t):
            return t

        def coefficients(self, tau):
            raise NotImplementedError

    path = students.student(PathTeacher(students.Plain(), Mine(), "data", (1, 4, 4)))
    with pytest.raises(
        ValueError, match=r"Mine is not of this package, and a folder cannot hold its code"
    ):
        path.save_pretrained(tmp_path / "path")
    function = students.student(
        PathTeacher(students.Plain(), students.LinearPath(), lambda raw, y, c: raw, (1, 4, 4))
    )
    with pytest.raises(ValueError, match=r"prediction is a function of your own"):
        function.save_pretrained(tmp_path / "prediction")
    with pytest.raises(
        ValueError, match=r"students.Plain is not of this package, and the config does not say"
    ):
        STUDENTS["EDM"]().save_pretrained(tmp_path / "edm")
    with pytest.raises(ValueError, match=r"built by this package: leave network_arguments out"):
        students.sit().save_pretrained(tmp_path / "sit", network_arguments={})

    class Local(students.Own):
        pass

    local = students.student(VelocityTeacher(Local(), (1, 4, 4), 3))
    with pytest.raises(ValueError, match=r"Local is defined in a script or a function"):
        local.save_pretrained(tmp_path / "local", network_arguments={})
    assert not [
        found for found in tmp_path.iterdir() if found.name != "out"
    ]  # no half folders, hidden or not


def test_a_network_of_ones_own_needs_its_arguments_to_be_right(tmp_path):
    with pytest.raises(ValueError, match=r"do not fit its network"):
        STUDENTS["own network"]().save_pretrained(tmp_path / "out", network_arguments={"width": 16})


def test_a_network_of_ones_own_is_not_imported_without_leave(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import pathlib\n"
        "pathlib.Path('imported').touch()\n"
        "from students.export.students import Own\n"
        "class Net(Own):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine

    made = students.student(VelocityTeacher(mine.Net(), (1, 4, 4), 3))
    made.save_pretrained(tmp_path / "out", network_arguments={"width": 8})
    x, net = made.sample(3), mine.Net()
    (tmp_path / "imported").unlink()
    del sys.modules["mine"]
    for trust in (None, "mine.Other", "mine"):
        with pytest.raises(
            ValueError, match=r"network is mine.Net, which is not of this package: read its code"
        ):
            FlowMap.from_pretrained(tmp_path / "out", trust=trust)
    with pytest.raises(
        ValueError, match=r"is mine.Net, and the one given is torch.nn.modules.linear.Linear"
    ):
        FlowMap.from_pretrained(tmp_path / "out", network=nn.Linear(1, 1))
    assert not (tmp_path / "imported").exists()
    assert torch.equal(FlowMap.from_pretrained(tmp_path / "out", network=net).sample(3), x)
    assert not (tmp_path / "imported").exists()
    assert torch.equal(FlowMap.from_pretrained(tmp_path / "out", trust="mine.Net").sample(3), x)
    (tmp_path / "mine.py").unlink()
    del sys.modules["mine"]
    with pytest.raises(ValueError, match=r"mine.Net cannot be imported .*PYTHONPATH"):
        FlowMap.from_pretrained(tmp_path / "out", trust="mine.Net")
    students.sit().save_pretrained(tmp_path / "sit")
    with pytest.raises(ValueError, match=r"built by this package: leave network and trust out"):
        FlowMap.from_pretrained(tmp_path / "sit", trust="os.system")


def renamed(spec):
    """A description as 0.1.0 wrote it: an official student's network was called FromPrior."""
    if not isinstance(spec, dict):
        return spec
    arguments = spec.get("arguments")
    if spec.get("class") == "SiTVelocity" and isinstance(arguments["convention"], dict):
        return {
            "class": "FromPrior",
            "arguments": {"net": arguments["net"], **arguments["convention"]["arguments"]},
        }
    return {name: renamed(value) for name, value in spec.items()}


@pytest.mark.parametrize("kind", ["official", "SiT", "SiT of REPA"])
def test_folders_of_0_1_0_still_open(tmp_path, kind):
    made = STUDENTS[kind]()
    made.save_pretrained(tmp_path / "out")
    path = tmp_path / "out" / "freeflow.json"
    manifest = json.loads(path.read_text())
    old = renamed(manifest["network"])
    assert ("FromPrior" in json.dumps(old)) == (kind == "official")
    names = {
        "official": '"sign": -1',
        "SiT": '"convention": "sit"',
        "SiT of REPA": '"convention": "repa"',
    }
    assert names[kind] in json.dumps(old)
    path.unlink()
    seal(
        tmp_path / "out",
        {name: value for name, value in manifest.items() if name not in ("sha256", "files")}
        | {"network": old},
    )
    opened = FlowMap.from_pretrained(tmp_path / "out")
    condition = torch.tensor([0, 1, 0])
    assert torch.equal(opened.sample(3, condition), made.sample(3, condition))


def test_arguments_are_those_of_the_training_config(tmp_path):
    made = STUDENTS["own network"]()
    network = {
        "class_path": "students.export.students.Own",
        "init_args": {"width": 8, "classes": 3},
    }
    made.about["config"] = {
        "class_path": "freeflow_lightning.FreeFlowModule",
        "init_args": {"network": network},
    }
    manifest = made.save_pretrained(tmp_path / "out")
    (mine,) = find_foreign(manifest["network"])
    assert mine == (network["class_path"], network["init_args"])
    assert torch.equal(opened(tmp_path / "out", made).sample(3), made.sample(3))


def test_the_documented_example_of_ones_own_network(tmp_path, monkeypatch):
    """A network inside a network: its arguments name the inner one by class path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import my_unet

    weights = str(FOLDER / "my_unet.pt")
    made = students.student(my_unet.UNetTeacher(weights), time_module="unet.clock")
    with pytest.raises(
        ValueError,
        match=r"my_unet.Velocity is not of this package, and the config does not say .*class_path",
    ):
        made.save_pretrained(tmp_path / "out")
    inner = {"unet": {"class_path": "my_unet.UNet", "init_args": {"width": 16}}}
    made.save_pretrained(tmp_path / "out", network_arguments=inner)
    again = FlowMap.from_pretrained(tmp_path / "out", trust="my_unet.Velocity")
    assert torch.equal(again.sample(4), made.sample(4))
    again.save_pretrained(tmp_path / "twice")  # the folder knows the arguments
    twice = FlowMap.from_pretrained(tmp_path / "twice", trust="my_unet.Velocity")
    assert torch.equal(twice.sample(4), made.sample(4))


# Integrity


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    students.sit().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_a_missing_or_changed_file_is_refused_by_name(copied):
    path = copied / "flow_map.safetensors"
    content = path.read_bytes()
    for place in (8, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(
            ValueError,
            match=r"flow_map.safetensors in .* is not the file that was exported \(SHA-256",
        ):
            FlowMap.from_pretrained(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"flow_map.safetensors is missing in"):
        FlowMap.from_pretrained(copied)
    path.write_bytes(content)
    FlowMap.from_pretrained(copied)


@pytest.mark.parametrize(
    "key", ["guidance_range", "network", "files", "decoder", "schema", "format", "sha256"]
)
def test_a_changed_manifest_is_refused(copied, key):
    path = copied / "freeflow.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {key: {"kind": "divided", "scale": 2}}))
    with pytest.raises(
        ValueError, match=r"freeflow.json (has been changed|has schema|was not written)"
    ):
        FlowMap.from_pretrained(copied)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"freeflow.json is not JSON"):
        FlowMap.from_pretrained(copied)
    path.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"no freeflow.json in .*: expected a folder that freeflow export wrote",
    ):
        FlowMap.from_pretrained(copied)


def test_the_card_may_be_edited(copied):
    (copied / "README.md").write_text("mine")
    FlowMap.from_pretrained(copied)


def test_nothing_is_overwritten_unasked(copied):
    made = students.sit()
    with pytest.raises(ValueError, match=r"holds an exported student already: .*--overwrite"):
        made.save_pretrained(copied)
    made.save_pretrained(copied, overwrite=True)
    (copied / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files beside the exported student \(thesis.txt\)"):
        made.save_pretrained(copied, overwrite=True)
    assert (copied / "thesis.txt").is_file()
    (copied / "freeflow.json").unlink()
    with pytest.raises(ValueError, match=r"is no exported student: choose another folder"):
        made.save_pretrained(copied, overwrite=True)


def test_weights_of_another_network_are_refused(tmp_path):
    """Not by the hash alone: loading is strict."""
    from freeflow_lightning.students.export import seal
    from freeflow_lightning.students.export.folder import read_manifest, write_weights

    made = ScalarConditioned(SiTVelocity(tiny_sit()), ("delta", "gamma"))
    FlowMap(made, LatentSpace((3, 4, 4), 5, None)).save_pretrained(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / "freeflow.json")
    state = made.state_dict()
    for wrong in (
        {k: v for k, v in state.items() if "gamma" not in k},
        state | {"more": torch.zeros(1)},
    ):
        write_weights(tmp_path / "out" / "flow_map.safetensors", wrong)
        seal(tmp_path / "out", manifest)
        with pytest.raises(
            ValueError, match=r"(?s)do not fit its network: .*(embedders.gamma|more)"
        ):
            FlowMap.from_pretrained(tmp_path / "out")


def test_a_folder_can_name_files_of_its_own_and_networks_alone(tmp_path):
    from freeflow_lightning.students.export import seal
    from freeflow_lightning.students.export.folder import read_manifest

    manifest = students.sit().save_pretrained(tmp_path / "out")
    students.sit().save_pretrained(tmp_path / "other")
    seal(
        tmp_path / "out",
        manifest | {"weights": [{"file": "../other/flow_map.safetensors", "prefix": ""}]},
    )
    with pytest.raises(
        ValueError, match=r"names the file '../other/flow_map.safetensors', which is not inside it"
    ):
        FlowMap.from_pretrained(tmp_path / "out")
    for name, message in (
        ("DiffusionPipeline", "no network of diffusers"),
        ("Unheard", "has no Unheard"),
    ):
        description = {
            "class": "diffusers",
            "arguments": {"name": name, "dtype": "float32", "subfolder": "unet"},
        }
        seal(tmp_path / "out", manifest | {"network": description})
        with pytest.raises(ValueError, match=message):
            FlowMap.from_pretrained(tmp_path / "out")
    seal(tmp_path / "out", manifest | {"network": {"class": "System", "arguments": {}}})
    with pytest.raises(ValueError, match=r"this version of freeflow-lightning has no 'System'"):
        FlowMap.from_pretrained(tmp_path / "out")
    (tmp_path / "out" / "flow_map_network.py").write_text("raise SystemExit")
    seal(tmp_path / "out", manifest)
    assert "flow_map_network.py" in read_manifest(tmp_path / "out" / "freeflow.json")["files"]
    FlowMap.from_pretrained(tmp_path / "out")  # no code in a folder is ever run
