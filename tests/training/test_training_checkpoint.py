"""A checkpoint says all of itself, is read in the parts that are needed, and what has changed in it is found."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import nn

from damaged import flipped, record_of
from freeflow_lightning import FlowMap, FreeFlowModule
from freeflow_lightning.callbacks import StudentEMA
from freeflow_lightning.nets import MLP, LoRA
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction
from freeflow_lightning.teachers import GaussianMixtureTeacher, SiTTeacher, VelocityTeacher
from freeflow_lightning.training.checkpoint_damage import older_checkpoint, unreadable
from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO
from freeflow_lightning.training.checkpoint_reader import read_checkpoint_file
from freeflow_lightning.training.config_files import find_files
from freeflow_lightning.training.record import describe
from freeflow_lightning.training.training_checkpoint import find_checkpoint, open_checkpoint
from tiny import (
    by_arguments_and_by_recipe,
    data,
    fit,
    learned_teacher,
    mixture,
    mlp,
    module,
    same,
    shaken,
    weights,
)

DIGITS = (
    Path(__import__("freeflow_lightning").__file__).parent / "assets" / "digits_teacher.safetensors"
)


class Clocked(nn.Module):
    """A network of one's own whose time embedding has an unusual name."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.inside = MLP((2,), width, 1)
        self.clock, self.inside.t_embedder = self.inside.t_embedder, nn.Identity()

    def forward(self, x, t, condition=None):
        self.inside.t_embedder = self.clock
        try:
            return self.inside(x, t)
        finally:
            self.inside.t_embedder = nn.Identity()


def saved(made, *callbacks, steps=2, **changes):
    """The checkpoint of a module that was trained for a few steps."""
    keep = ModelCheckpoint(".", "last", every_n_train_steps=steps, enable_version_counter=False)
    fit(made, *callbacks, keep, max_steps=steps, enable_checkpointing=True, **changes)
    return Path("last.ckpt")


def sampled(made, n=8, gamma=1.5):
    return FlowMap(made.evaluated.eval(), made.teacher, made.guidance_range).sample(
        n, guidance=gamma
    )


# It says all of itself


SETTINGS = {
    "scalar_scale": {"scalar_scale": 5.0},
    "guidance_range": {"guidance_range": (1.0, 4.0), "evaluation_guidance": 3.0},
    "prediction": {"prediction": ContinuousPrediction(), "correction_fraction": 0.5},
    "the network is the teacher's": {"network": None, "teacher": "digits"},
    "lora": {"network": None, "teacher": "digits", "lora": LoRA(rank=2)},
    "the auxiliary network alone as lora": {
        "network": None,
        "teacher": "digits",
        "lora": LoRA(rank=2, networks=["auxiliary"]),
    },
    "prediction alone": {"correction_fraction": 0.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_module_from_python_reopens_by_itself(name):
    settings = dict(SETTINGS[name])
    if settings.get("teacher") == "digits":
        settings["teacher"] = SiTTeacher("embedded:digits")
    made = module(**settings)
    path = saved(made, StudentEMA([0.9]), prior=data(batch_size=4))
    flow_map, by_recipe = by_arguments_and_by_recipe(path)
    assert torch.equal(flow_map.sample(8), sampled(made))
    assert torch.equal(flow_map.sample(8), by_recipe.sample(8))
    assert flow_map.guidance_range == made.guidance_range
    assert flow_map.about["evaluation_guidance"] == made.evaluation_guidance
    again = FreeFlowModule.load_from_checkpoint(path)
    assert same(weights(again), weights(made))
    assert again.prediction == made.prediction
    assert (again.scalar_scale, again.correction_fraction) == (
        made.scalar_scale,
        made.correction_fraction,
    )
    assert describe(again.lora) == describe(made.lora)


def test_a_file_of_another_user_is_not_called_damaged():
    told = str(unreadable("last.ckpt", PermissionError(13, "Permission denied")))
    assert told.startswith("last.ckpt may not be read by this user (permission denied): ask its")
    assert "damaged" not in told


def test_what_is_given_wins_and_is_said(recwarn):
    made = module(scalar_scale=2.0)
    path = saved(made)
    other = GaussianMixtureTeacher([[1.0, 0.0], [-1.0, 0.0]], 0.3, labels=[0, 1])
    with pytest.warns(
        UserWarning, match=r"the given teacher .*GaussianMixtureTeacher\(.*takes the place of"
    ):
        flow_map = FlowMap.from_checkpoint(path, teacher=other)
    assert flow_map.teacher is other
    recwarn.clear()
    FlowMap.from_checkpoint(
        path, teacher=mixture(), network=mlp(3)
    )  # as they are recorded: weights come from the file
    assert not [warning for warning in recwarn if "takes the place" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"the given scalar_scale 3.0 takes the place of 2.0"):
        assert FreeFlowModule.load_from_checkpoint(path, scalar_scale=3.0).scalar_scale == 3.0
    with pytest.raises(ValueError, match=r"the weights of .* do not fit"):
        FlowMap.from_checkpoint(path, network=MLP((2,), 8, 1, num_classes=2))


def test_a_network_with_a_time_module_of_its_own():
    made = module(
        network=Clocked(), time_module="clock", guidance_range=(1, 1), evaluation_guidance=1.0
    )
    path = saved(made)
    with pytest.raises(
        ValueError,
        match=r"trained with a network of class \S+Clocked, and cannot say how .*Pass network=",
    ) as refused:
        FlowMap.from_checkpoint(path)
    assert "\n" not in str(refused.value)
    assert torch.equal(
        FlowMap.from_checkpoint(path, network=Clocked()).sample(4, guidance=1),
        sampled(made, 4, 1.0),
    )
    again = FreeFlowModule.load_from_checkpoint(path, network=Clocked())
    assert again.time_module == "clock"
    assert same(weights(again), weights(made))


def test_a_teacher_that_cannot_be_said_has_to_be_given():
    made = module(VelocityTeacher(lambda x, t, c: -0.5 * x, (2,), 2))
    path = saved(made)
    with pytest.raises(
        ValueError,
        match=r"a teacher.function of class .*<lambda>.* Pass teacher=\.\.\. \(--teacher CLASS",
    ):
        FlowMap.from_checkpoint(path)
    given = VelocityTeacher(lambda x, t, c: -0.5 * x, (2,), 2)
    assert torch.equal(FlowMap.from_checkpoint(path, teacher=given).sample(4), sampled(made, 4))


def test_a_teacher_of_a_network_has_to_be_given():
    path = saved(module(learned_teacher()))
    with pytest.raises(
        ValueError,
        match=r"a teacher.function of class freeflow_lightning.nets.mlp.MLP, and cannot say how",
    ):
        FlowMap.from_checkpoint(path)
    FlowMap.from_checkpoint(path, teacher=learned_teacher()).sample(1)


class Learned(VelocityTeacher):
    """A teacher of one's own that makes its network itself."""

    def __init__(self, seed: int):
        super().__init__(mlp(seed), (2,), 2)


def test_a_teacher_with_other_weights_than_its_description_leads_to_has_to_be_given():
    teacher = Learned(seed=3)
    FlowMap.from_checkpoint(saved(module(teacher))).sample(1)
    shaken(teacher, 7)
    path = saved(module(teacher))
    with pytest.raises(
        ValueError, match=r"trained with other weights in its Learned .*pass the teacher itself"
    ):
        FlowMap.from_checkpoint(path)
    FlowMap.from_checkpoint(path, teacher=teacher).sample(1)


def test_a_class_of_a_script_is_said_to_be_one(monkeypatch):
    monkeypatch.setattr(Clocked, "__module__", "__main__")
    path = saved(
        module(
            network=Clocked(), time_module="clock", guidance_range=(1, 1), evaluation_guidance=1.0
        )
    )
    with pytest.raises(
        ValueError,
        match=r"class __main__.Clocked, and cannot say where it is: it is defined in a script",
    ):
        FlowMap.from_checkpoint(path)


def test_the_version_travels_and_unknown_options_are_named():
    path = saved(module())
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["freeflow_lightning"]["version"]
    checkpoint["hyper_parameters"]["init_args"]["old_option"] = 3
    checkpoint["freeflow_lightning"]["version"] = "9.9.9"
    torch.save(checkpoint, "newer.ckpt")
    for opens in (FlowMap.from_checkpoint, FreeFlowModule.load_from_checkpoint):
        with pytest.raises(
            ValueError,
            match=r"no option 'old_option' .*written by freeflow-lightning 9.9.9.*install that",
        ):
            opens("newer.ckpt")
    del checkpoint["hyper_parameters"]["init_args"]["old_option"]
    checkpoint["hyper_parameters"]["init_args"]["teacher"]["class_path"] = (
        "freeflow_lightning.teachers.Later"
    )
    torch.save(checkpoint, "newer.ckpt")
    with pytest.raises(
        ValueError, match=r"no class freeflow_lightning.teachers.Later in this version: .*9.9.9"
    ):
        FlowMap.from_checkpoint("newer.ckpt")


def test_an_older_python_checkpoint_opens_with_everything_given():
    made = module(scalar_scale=5.0)
    checkpoint = torch.load(saved(made, StudentEMA([0.5])), weights_only=True)
    del checkpoint["hyper_parameters"], checkpoint["freeflow_lightning"]
    torch.save(checkpoint, "older.ckpt")
    again = FreeFlowModule.load_from_checkpoint(
        "older.ckpt", teacher=mixture(), network=mlp(), scalar_scale=5.0
    )
    assert same(weights(again), weights(made))


# Where its files are


def test_a_file_is_found_beside_the_checkpoint_the_run_the_training_and_here(tmp_path, monkeypatch):
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    (places[1] / "t.pt").touch()
    config = {
        "class_path": "a.t.pt",
        "init_args": {"checkpoint": "t.pt", "mode": "auto", "more": ["t.pt", 3]},
    }
    found = str(places[1] / "t.pt")
    assert find_files(config, places)["init_args"] == {
        "checkpoint": found,
        "mode": "auto",
        "more": [found, 3],
    }
    assert find_files(config, places)["class_path"] == "a.t.pt"
    (places[0] / "t.pt").touch()
    assert find_files(config, places)["init_args"]["checkpoint"] == str(places[0] / "t.pt")
    (places[0] / "auto").touch()  # no suffix, no slash: a word
    assert find_files(config, places)["init_args"]["mode"] == "auto"
    assert find_files({"x": "none.pt"}, places) == {"x": "none.pt"}


CONFIG = """
model:
  teacher: {class_path: SiTTeacher, init_args: {checkpoint: t.safetensors}}
  network:
    class_path: freeflow_lightning.nets.MLP
    init_args: {sample_shape: [1, 8, 8], hidden_size: 8, depth: 1, num_classes: 10}
data: {batch_size: 4, length: 2, val_samples: 0}
trainer: {accelerator: cpu, max_steps: 2, enable_progress_bar: false}
"""


def test_files_beside_the_config_and_moved_ones(freeflow, tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/small.yaml").write_text(CONFIG)
    shutil.copy(DIGITS, "experiment/t.safetensors")
    changed = {key: value + 1 for key, value in load_file(DIGITS).items()}
    with __import__("safetensors").safe_open(DIGITS, "pt") as file:
        save_file(changed, "t.safetensors", file.metadata())  # in the current folder: another one
    assert freeflow("fit", "--config", "experiment/small.yaml")[0] == 0
    (path,) = tmp_path.glob("runs/small/version_0/checkpoints/*.ckpt")
    original = weights(SiTTeacher("embedded:digits"))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir("away")
    assert same(
        weights(FlowMap.from_checkpoint(path).teacher), original
    )  # where the training found it
    shutil.move(tmp_path / "experiment/t.safetensors", tmp_path / "away/moved.safetensors")
    (tmp_path / "t.safetensors").unlink()
    code, _, error = freeflow("sample", "--checkpoint", path, "--num_samples", 2)
    assert code == 1
    assert "t.safetensors" in error
    assert len(error.splitlines()) == 2
    given = ["--teacher", "SiTTeacher", "--teacher.checkpoint", "moved.safetensors"]
    with pytest.warns(UserWarning, match=r"takes the place"):
        assert freeflow("sample", "--checkpoint", path, "--num_samples", 2, *given)[0] == 0
    (path.parent / "experiment").mkdir()
    shutil.move("moved.safetensors", path.parent / "experiment/t.safetensors")
    assert same(weights(FlowMap.from_checkpoint(path).teacher), original)  # beside the checkpoint


# What it is


def test_a_run_and_its_versions_lead_to_the_last_checkpoint(tmp_path):
    for n, names in ((2, ["best.ckpt", "last.ckpt"]), (10, ["step_5.ckpt"]), (11, [])):
        folder = tmp_path / f"run/version_{n}/checkpoints"
        folder.mkdir(parents=True)
        for age, name in enumerate(reversed(names)):
            torch.save({"state_dict": {}}, folder / name)
            os.utime(folder / name, (age, age))
    assert find_checkpoint(tmp_path / "run") == tmp_path / "run/version_10/checkpoints/step_5.ckpt"
    assert (
        find_checkpoint(tmp_path / "run/version_2").name == "last.ckpt"
    )  # though best.ckpt is newer
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*version_11: expected a run"):
        find_checkpoint(tmp_path / "run/version_11")


def test_a_run_passes_over_its_damaged_checkpoints_and_says_so(pair, tmp_path):
    older, newer, record = pair
    folder = tmp_path / "runs/x/version_0/checkpoints"
    folder.mkdir(parents=True)
    kept, last = (path.rename(folder / path.name) for path in (older, newer))
    flipped(last, record)
    with pytest.warns(
        UserWarning, match=r"taking \S+step=1.ckpt; passed over: step=2.ckpt \(unread"
    ):
        flow_map = FlowMap.from_checkpoint(tmp_path / "runs/x")
    assert flow_map.about["steps"] == 1
    kept.write_text("no checkpoint")
    with pytest.raises(
        ValueError, match=r"no checkpoint of \S+version_0 is whole: found step=1.ckpt .*, step=2"
    ):
        FlowMap.from_checkpoint(tmp_path / "runs/x")


def as_folder(path, folder):
    """The checkpoint of one file as FSDP2 writes it into a folder."""
    checkpoint = torch.load(path, weights_only=True)
    state = {"state_dict": checkpoint.pop("state_dict")}
    checkpoint.pop("optimizer_states")
    torch.distributed.checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    torch.save(checkpoint, Path(folder) / "meta.pt")


VERBS = {
    "sample": ["--checkpoint", "{}", "--num_samples", 2],
    "evaluate": [
        "--checkpoint",
        "{}",
        "--num_samples",
        8,
        "--reference_samples",
        8,
        "--reference_steps",
        2,
    ],
    "diagnose": [
        "--checkpoint",
        "{}",
        "--num_samples",
        16,
        "--fine_steps",
        4,
        "--auxiliary_steps",
        1,
    ],
    "search": [
        "--checkpoint",
        "{}",
        "--verifier",
        "TargetDistance",
        "--verifier.target",
        "[0.0, 0.0]",
        "--candidates",
        2,
    ],
    "export": ["--checkpoint", "{}", "--output", "exported"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.slow
def test_every_verb_opens_folders_and_takes_what_a_checkpoint_cannot_say(freeflow, tmp_path, verb):
    made = module(VelocityTeacher(lambda x, t, c: -0.5 * x, (2,), 2))
    folder = tmp_path / "runs/x/version_0/checkpoints/last.ckpt"
    as_folder(saved(made, StudentEMA([0.9])), folder)
    means = [[2.0, 0.0], [-2.0, 0.5]]
    given = [
        "--teacher",
        "GaussianMixtureTeacher",
        "--teacher.means",
        means,
        "--teacher.std",
        0.4,
        "--teacher.labels",
        [0, 1],
    ]
    for place in (folder, tmp_path / "runs/x"):
        words = [str(word).format(place) for word in VERBS[verb]]
        code, _, error = freeflow(verb, *words)
        assert code == 1, error
        assert "Pass teacher=" in error
        code, _, error = freeflow(verb, *words, *given)
        assert code == 0, error
        shutil.rmtree("exported", ignore_errors=True)


# Only what is needed, and only what is whole


def bytes_read():
    """By this process, from files and their cached pages."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux says what a process has read")
def test_a_student_is_read_without_the_optimizer_and_the_auxiliary_network():
    network = MLP((2,), 512, 2, num_classes=2)
    made = module(network=network)
    path = saved(made, StudentEMA([0.9]), steps=1)
    size = path.stat().st_size
    student = sum(value.nbytes for value in made.student.state_dict().values())
    before = bytes_read()
    FlowMap.from_checkpoint(path)
    read = bytes_read() - before
    assert student < read < 1.1 * student + 2**18
    assert read < size / 5  # student, average, auxiliary network, and two moments of two networks


@pytest.fixture
def pair(tmp_path):
    """Two checkpoints of a run, the second with another name, and a record of the second's student."""
    made = module()
    keep = ModelCheckpoint(".", "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(made, keep, max_steps=2, enable_checkpointing=True)
    older, newer = Path("step=1.ckpt"), Path("step=2.ckpt")
    os.utime(older, (1, 1))
    weight = torch.load(newer, weights_only=True)["state_dict"][
        "student.backbone.x_embedder.weight"
    ]
    return older, newer, record_of(newer, weight.contiguous().numpy().tobytes())


def test_a_flipped_bit_is_found_and_the_older_good_checkpoint_named(pair):
    older, newer, record = pair
    flipped(newer, record)
    openers = (
        FlowMap.from_checkpoint,
        FreeFlowModule.load_from_checkpoint,
        read_checkpoint_file,
        AtomicCheckpointIO().load_checkpoint,
    )
    for opens in openers:
        with pytest.raises(
            ValueError,
            match=r"step=2.ckpt is not a readable checkpoint .*good one before it is step=1.ckpt",
        ):
            opens(newer)
    with pytest.raises(ValueError, match=r"step=1.ckpt"):
        fit(module(), ckpt_path=newer)
    shutil.copy(older, "later.ckpt")  # written after the damaged one
    assert older_checkpoint(newer) == older
    Path("later.ckpt").unlink()
    flipped(
        older, next(name for name in zipfile.ZipFile(older).namelist() if name.endswith("data/0"))
    )
    with pytest.raises(ValueError, match=r"it is damaged; no older good one lies beside it"):
        FlowMap.from_checkpoint(newer)


def test_a_flipped_bit_elsewhere_does_not_hinder_the_student_but_the_training(pair):
    _, newer, _ = pair
    moments = torch.load(newer, weights_only=True)["optimizer_states"][0]["state"][1]["exp_avg"]
    flipped(newer, record_of(newer, moments.contiguous().numpy().tobytes()))
    FlowMap.from_checkpoint(newer).sample(1)
    with pytest.raises(ValueError, match=r"step=2.ckpt is not a readable checkpoint"):
        fit(module(), ckpt_path=newer)


@pytest.mark.parametrize("part", ["data.pkl", "cut"])
def test_a_damaged_description_or_a_cut_file_is_refused(pair, part):
    _, newer, _ = pair
    if part == "cut":
        newer.write_bytes(newer.read_bytes()[: newer.stat().st_size // 2])
    else:
        flipped(
            newer,
            next(name for name in zipfile.ZipFile(newer).namelist() if name.endswith(part)),
            0.9,
        )
    with pytest.raises(ValueError, match=r"step=2.ckpt is not a readable checkpoint .*step=1.ckpt"):
        open_checkpoint(newer)


def test_a_flipped_bit_in_a_folder_is_found(pair, tmp_path):
    _, newer, _ = pair
    as_folder(newer, "sharded.ckpt")
    FlowMap.from_checkpoint("sharded.ckpt").sample(1)
    (share,) = Path("sharded.ckpt").glob("*.distcp")
    content = bytearray(share.read_bytes())
    weight = open_checkpoint("sharded.ckpt").read(["student.backbone.x_embedder.weight"])[
        "student.backbone.x_embedder.weight"
    ]
    content[content.index(weight.numpy().tobytes()) + 5] ^= 1
    share.write_bytes(content)
    for opens in (FlowMap.from_checkpoint, read_checkpoint_file):
        with pytest.raises(
            ValueError, match=r"sharded.ckpt is not a readable checkpoint \(.*has changed since"
        ):
            opens("sharded.ckpt")


def test_tensors_come_back_as_they_were():
    base = torch.arange(12, dtype=torch.float32).view(3, 4)
    state = {
        "view": base[1:].t(),
        "half": base.to(torch.bfloat16),
        "none": torch.zeros(0, 3),
        "number": torch.tensor(3, dtype=torch.int64),
        "parameter": nn.Parameter(base[0]),
    }
    torch.save({"state_dict": state, "global_step": 1}, "x.ckpt")
    read = open_checkpoint("x.ckpt").weights("")
    for name, value in state.items():
        assert torch.equal(read[name], value), name
        assert read[name].dtype == value.dtype


def test_prediction_of_ones_own_is_no_hindrance_for_samples():
    class Mine(DiscretePrediction):
        pass

    made = module(prediction=Mine(4))
    assert torch.equal(FlowMap.from_checkpoint(saved(made)).sample(4), sampled(made, 4))


@pytest.mark.parametrize(
    ("name", "value"),
    [("old_option", 3), ("student_lr", "fast"), ("guidance_interval", [0.9, 0.1])],
)
def test_a_config_that_was_changed_since_is_looked_at_whole(
    name, value, checkpoint, freeflow, tmp_path
):
    """Also what a student has no use for."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["init_args"][name] = value
    torch.save(content, tmp_path / "changed.ckpt")
    code, _, error = freeflow("sample", "--checkpoint", tmp_path / "changed.ckpt")
    assert code == 1
    assert name in error
