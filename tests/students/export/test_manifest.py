"""Folders that nobody should open: sealed anew by a stranger, so that every hash is right."""

import hashlib
import json
import os
import shutil

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.students.export import seal
from freeflow_lightning.students.export.folder import read_manifest, sha256
from freeflow_lightning.students.export.manifest import ENTRIES
from students.export import students


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger") / "out"
    students.sit().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def resealed(folder, **changes):
    """Write the manifest with other entries and a hash that fits."""
    seal(folder, read_manifest(folder / "freeflow.json") | changes)


def changed_part(folder, *path, value):
    """Write the manifest with one nested entry changed, and a hash that fits."""
    manifest = read_manifest(folder / "freeflow.json")
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    seal(folder, manifest)


def test_a_folder_that_was_sealed_anew_is_opened_where_it_says_the_same(copied):
    resealed(copied)
    FlowMap.from_pretrained(copied)


@pytest.mark.parametrize("key", [key for key in ENTRIES if key != "files"])
def test_an_entry_that_is_missing_or_of_another_kind_is_named(copied, key):
    manifest = read_manifest(copied / "freeflow.json")
    seal(copied, {name: value for name, value in manifest.items() if name != key})
    with pytest.raises(ValueError, match=f"freeflow.json says nothing of '{key}': it is damaged"):
        FlowMap.from_pretrained(copied)
    seal(copied, manifest | {key: 3 if key == "average" else "wrong"})
    with pytest.raises(ValueError, match=f"freeflow.json cannot mean its '{key}'"):
        FlowMap.from_pretrained(copied)


@pytest.mark.parametrize(
    "shape",
    [
        [3, 100_000, 100_000],
        [4, 0, 4],
        [-1, 4, 4],
        [],
        [3.0, 4, 4],
        [True, 4, 4],
        "444",
        [2] * 30,
        [10**30],
    ],
)
def test_a_shape_that_cannot_be_meant_is_refused_before_memory_is_taken(copied, shape):
    resealed(copied, sample_shape=shape)
    with pytest.raises(ValueError, match="cannot mean its 'sample_shape'"):
        FlowMap.from_pretrained(copied)


NET = ("network", "arguments", "backbone", "arguments", "net", "arguments")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 2**20),  # 40 GB and more, and four terabytes for a layer
        ("input_size", 2**18),
        ("num_classes", 2**20),
        ("depth", 1000),
        ("hidden_size", -8),
        ("patch_size", 0),
        ("num_heads", "two"),
        ("mlp_ratio", float(2**40)),
    ],
)
def test_a_network_of_other_sizes_than_its_weights_is_refused_before_memory_is_taken(
    copied, name, value
):
    changed_part(copied, *NET, name, value=value)
    with pytest.raises(ValueError, match=r"do not fit its network|cannot build 'SiT'"):
        FlowMap.from_pretrained(copied)


@pytest.mark.parametrize(("name", "value"), [("hidden_size", 10**12), ("depth", 10**6)])
def test_a_count_that_no_network_has_is_refused(copied, name, value):
    changed_part(copied, *NET, name, value=value)
    with pytest.raises(ValueError, match="cannot mean its 'network'"):
        FlowMap.from_pretrained(copied)


@pytest.mark.parametrize("how", ["above", "absolute", "link", "link to a folder"])
def test_weights_outside_the_folder_are_refused(copied, tmp_path, how):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    weights = (copied / "flow_map.safetensors").rename(elsewhere / "flow_map.safetensors")
    name = {"above": "../elsewhere/flow_map.safetensors", "absolute": str(weights)}.get(
        how, "flow_map.safetensors"
    )
    if how == "link":
        (copied / name).symlink_to(weights)
    if how == "link to a folder":
        (copied / "sub").symlink_to(elsewhere)
        name = "sub/flow_map.safetensors"
    resealed(copied, weights=[{"file": name, "prefix": ""}])
    manifest = read_manifest(copied / "freeflow.json")
    manifest["files"][name] = sha256(weights)
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    manifest["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (copied / "freeflow.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError,
        match=r"is not inside it: do not use this folder|is a link that leads out of the folder",
    ):
        FlowMap.from_pretrained(copied)


def test_a_loop_of_links_and_lists_without_end_are_refused(copied):
    (copied / "flow_map.safetensors").unlink()
    (copied / "flow_map.safetensors").symlink_to("flow_map.safetensors")
    with pytest.raises(FileNotFoundError, match=r"flow_map\.safetensors is missing"):
        FlowMap.from_pretrained(copied)
    (copied / "freeflow.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        FlowMap.from_pretrained(copied)


def test_a_folder_of_the_hubs_cache_links_to_its_files(exported, tmp_path):
    """snapshots/COMMIT/file is a link to blobs/HASH there, which is no way out."""
    blobs, snapshot = (
        tmp_path / "models--me--it" / "blobs",
        tmp_path / "models--me--it" / "snapshots" / "abc",
    )
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in exported.iterdir():
        shutil.copyfile(path, blobs / path.name)
        (snapshot / path.name).symlink_to(os.path.join("../../blobs", path.name))
    assert torch.equal(
        FlowMap.from_pretrained(snapshot).sample(2), FlowMap.from_pretrained(exported).sample(2)
    )
    assert FlowMap.from_pretrained(tmp_path / "models--me--it" / "snapshots" / "abc")


VAE = {
    "kind": "vae",
    "vae": "some/vae",
    "scale": 1.0,
    "shift": 0.0,
    "chunk": 1,
    "subfolder": None,
    "revision": None,
}


@pytest.mark.parametrize(
    "name",
    ["DiffusionPipeline", "StableDiffusionPipeline", "EulerDiscreteScheduler", "utils", "logging"],
)
def test_a_decoder_is_a_network_of_diffusers_and_nothing_else(copied, name):
    resealed(copied, decoder=VAE | {"class_name": name})
    with pytest.raises(
        ValueError, match=f"names '{name}' as its network, which is no network of diffusers"
    ):
        FlowMap.from_pretrained(copied)


@pytest.mark.parametrize("part", ["class_name", "scale", "chunk", "subfolder"])
def test_a_decoder_that_lacks_an_entry_is_refused(copied, part):
    whole = VAE | {"class_name": "AutoencoderKL"}
    resealed(copied, decoder={key: value for key, value in whole.items() if key != part})
    with pytest.raises(ValueError, match="cannot mean its 'decoder'"):
        FlowMap.from_pretrained(copied)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "load"}, "names 'load' as the type of its network's weights"),
        ({"subfolder": "../unet"}, r"has its network in '\.\./unet'"),
        ({"name": "DiffusionPipeline"}, "no network of diffusers"),
        ({"name": None}, "no network of diffusers|has no None"),
    ],
)
def test_a_network_of_diffusers_is_named_within_bounds(copied, arguments, message):
    described = {"name": "UNet2DModel", "dtype": "float32", "subfolder": "unet"} | arguments
    changed_part(copied, "network", value={"class": "diffusers", "arguments": described})
    with pytest.raises(ValueError, match=message):
        FlowMap.from_pretrained(copied)


@pytest.mark.parametrize(
    "name", ["vae/config.json", "unet/model.safetensors", "transformer/deep/a.json"]
)
def test_files_that_diffusers_would_read_are_all_in_the_manifest(copied, name):
    (copied / name).parent.mkdir(parents=True)
    (copied / name).write_text("{}")
    with pytest.raises(
        ValueError, match=f"would be read with {name}, which freeflow.json does not name"
    ):
        FlowMap.from_pretrained(copied)


def test_an_index_of_shards_stays_in_the_folder(copied):
    (copied / "unet").mkdir()
    (copied / "unet/model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../secret.safetensors"}})
    )
    resealed(copied)
    with pytest.raises(ValueError, match=r"would be read with unet/\.\./\.\./secret.safetensors"):
        FlowMap.from_pretrained(copied)
