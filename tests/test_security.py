"""Foreign bytes are data: nothing in a checkpoint is executed or imported, whatever opens it and wherever it lies."""

import ast
import functools
import http.server
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy

import freeflow_lightning
from freeflow_lightning import FlowMap, FreeFlowModule, PriorDataModule
from freeflow_lightning.examples.digits.data import DigitsDataModule
from freeflow_lightning.teachers.reading.declared import is_declared
from freeflow_lightning.teachers.reading.trust import (
    class_paths,
    denied_import,
    guarded,
    is_known,
    trusted,
)
from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO
from freeflow_lightning.training.checkpoint_reader import read_checkpoint_file
from freeflow_lightning.training.own_runs import is_remembered, remember_config
from freeflow_lightning.training.strategies import FSDP2
from freeflow_lightning.training.strategy_checks import check_reader
from freeflow_lightning.training.training_checkpoint import open_checkpoint
from tiny import data, fit, mixture, mlp, module, trainer

ROOT = Path(freeflow_lightning.__file__).parent
CANARY = "canary"


class Trap:
    def __reduce__(self):
        return (os.mkdir, (CANARY,))


@pytest.fixture
def trap(tmp_path):
    """A checkpoint whose pickle makes a folder if it is executed."""
    torch.save(
        {"state_dict": {}, "global_step": 1, "pytorch-lightning_version": "2.6.0", "x": Trap()},
        "trap.ckpt",
    )
    return tmp_path / "trap.ckpt"


@pytest.fixture
def address(trap):
    """The same behind http."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=trap.parent)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/trap.ckpt"
    server.shutdown()


# What loads


def loading_calls():
    """Every call in the package that may unpickle: its file, the name it calls, and the call."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name in ("torch.load", "_load", "pl_load", "torch.hub.load_state_dict_from_url"):
                yield path.relative_to(ROOT).as_posix(), name, node


def test_every_loader_asks_for_plain_values():
    calls = list(loading_calls())
    assert len(calls) >= 8
    for path, name, call in calls:
        asked = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert asked.get("weights_only") == "True", f"{path}: {name}"


def test_nothing_else_unpickles():
    """The restricted reader of a folder's description apart."""
    take_own_network = {
        "_Unpickler(file).load",
        "_Unpickler",
        "pickle.UnpicklingError",
        "super().find_class",
    }
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        risky = {
            name
            for name in names
            if name
            in ("pickle.load", "pickle.loads", "torch.hub.load", "joblib.load", "eval", "exec")
        }
        assert not risky, path
        assert {name for name in names if "npickler" in name} <= take_own_network, path
        loads = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load"
        ]
        assert not any("allow_pickle=True" in ast.unparse(call) for call in loads), path


@pytest.mark.parametrize("scheme", ["{path}", "file://{path}", "local://{path}", "{address}"])
def test_no_scheme_executes_a_pickle(trap, address, scheme, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(trap.parent / "hub"))
    place = scheme.format(path=trap, address=address)
    openers = {
        "AtomicCheckpointIO": lambda: AtomicCheckpointIO().load_checkpoint(place),
        "its weights_only": lambda: AtomicCheckpointIO().load_checkpoint(place, weights_only=False),
        "read_checkpoint_file": lambda: read_checkpoint_file(place),
        "open_checkpoint": lambda: open_checkpoint(place),
        "FlowMap": lambda: FlowMap.from_checkpoint(place, teacher=mixture(), network=mlp()),
        "load_from_checkpoint": lambda: FreeFlowModule.load_from_checkpoint(
            place, teacher=mixture(), network=mlp()
        ),
    }
    for name, opens in openers.items():
        with pytest.raises(
            ValueError, match=r"trap\.ckpt is not a readable checkpoint: .*would run code"
        ):
            opens()
        assert not Path(CANARY).exists(), name


@pytest.mark.parametrize(
    "plugins",
    [None, [AtomicCheckpointIO()], [AsyncCheckpointIO()]],
    ids=["plain", "atomic", "async"],
)
def test_a_trainer_executes_no_pickle_even_if_it_is_told_to(trap, address, plugins, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(trap.parent / "hub"))
    for place in (trap, address):
        with pytest.raises(ValueError, match=r"would run code"):
            trainer(plugins=plugins).fit(module(), data(), ckpt_path=str(place), weights_only=False)
        with pytest.raises(ValueError, match=r"would run code"):
            trainer(plugins=plugins).validate(
                module(), data(val_samples=8), ckpt_path=str(place), weights_only=False
            )
    assert not Path(CANARY).exists()


CONFIG = """
model:
  teacher: {class_path: GaussianMixtureTeacher, init_args: {means: [[2.0, 0.0], [-2.0, 0.0]], std: 0.2, labels: [0, 1]}}
  network: {class_path: MLP, init_args: {sample_shape: [2], hidden_size: 8, depth: 1, num_classes: 2}}
  guidance_range: [1, 1]
  evaluation_guidance: 1
data: {batch_size: 8, length: 2, val_samples: 0}
trainer: {accelerator: cpu, max_steps: 2, enable_progress_bar: false}
"""
VERBS = {
    "sample": ["--checkpoint", "{}"],
    "evaluate": ["--checkpoint", "{}"],
    "diagnose": ["--checkpoint", "{}"],
    "search": ["--checkpoint", "{}"],
    "export": ["--checkpoint", "{}", "--output", "exported"],
    "fit": ["--config", "small.yaml", "--ckpt_path", "{}"],
    "validate": ["--config", "small.yaml", "--ckpt_path", "{}"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_executes_a_pickle(freeflow, trap, address, verb, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(trap.parent / "hub"))
    Path("small.yaml").write_text(CONFIG)
    for place in (trap, address):
        code, _, error = freeflow(verb, *(word.format(place) for word in VERBS[verb]))
        assert code != 0
        assert len(error[error.index(f"freeflow {verb}: ") :].strip().splitlines()) == 2, error
        assert "Traceback" not in error
        assert not Path(CANARY).exists()


# A sharded checkpoint's folder


class TrapOfFolder:
    def __reduce__(self):
        return (os.mkdir, (CANARY,))


@pytest.mark.parametrize("part", [".metadata", "meta.pt"])
def test_no_part_of_a_folder_is_executed(part, tmp_path):
    folder = tmp_path / "sharded.ckpt"
    state = {"state_dict": {"student.a": torch.zeros(2)}}
    torch.distributed.checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 1, "x": TrapOfFolder()}, folder / "meta.pt")
    if part == ".metadata":
        torch.save({"global_step": 1}, folder / "meta.pt")
        (folder / ".metadata").write_bytes(pickle.dumps(TrapOfFolder()))
    for opens in (read_checkpoint_file, open_checkpoint, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(ValueError, match=r"would run code"):
            opens(folder)
    assert not Path(CANARY).exists()


def test_no_reader_of_lightnings_is_left(trap):
    check_reader(FSDP2(), trap)
    check_reader(ModelParallelStrategy(), None)
    with pytest.raises(
        ValueError,
        match=r"trap.ckpt: Lightning's ModelParallelStrategy unpickles .*use --trainer.strategy fsdp2",
    ):
        check_reader(ModelParallelStrategy(), trap)
    for kind in (PriorDataModule, DigitsDataModule):
        with pytest.raises(ValueError, match=rf"a checkpoint holds nothing of {kind.__name__}"):
            kind.load_from_checkpoint(trap, weights_only=False)
    assert not Path(CANARY).exists()


# Class paths


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("freeflow_lightning.FreeFlowModule", True),
        ("freeflow_lightning.nets.MLP", True),
        ("freeflow_lightning.recipes.FlowMapModule", True),
        ("freeflow_lightning.recipes.dmd.DMDModule", True),
        ("torch.nn.Linear", True),
        ("torch.nn.modules.linear.Linear", True),
        ("torch.hub.load", False),
        ("torch.load", False),
        ("torch.nn.modules.linear.math.sqrt", False),
        ("torch.nn.parallel.distributed.os.system", False),
        ("freeflow_lightning.commands.main.os.system", False),
        ("freeflow_lightning.commands.main.main", False),
        ("freeflow_lightning.commands.fit.FreeFlowCLI", False),
        ("freeflow_lightning.training.atomic_write.sweep", False),
        ("freeflow_lightning.training.checkpoint_files.shutil.rmtree", False),
        ("diffusers.UNet2DModel", True),
        ("diffusers.DiffusionPipeline", False),
        ("torch.nn.Parameter", False),
        ("freeflow_lightning.nets.sit.partial", False),
        ("diffusers.models.attention_processor.AttnProcessor", False),
        ("freeflow_lightning_evil.Net", False),
        ("torchvision.models.resnet18", False),
        ("os.system", False),
    ],
)
def test_known_classes(path, known):
    assert is_known(path) == known


def test_a_class_is_declared_by_a_file_of_this_package_alone(tmp_path):
    (tmp_path / "evil.py").write_text("class Net: pass")
    assert not is_declared(f"freeflow_lightning.{tmp_path}/evil.Net")
    assert not is_declared("freeflow_lightning.commands.fit.FreeFlowCLI")


@pytest.mark.parametrize(
    ("path", "imports"),
    [
        ("freeflow_lightning.flow.interpolate", True),
        ("freeflow_lightning.commands.main.usage", False),
        ("os.getcwd", False),
    ],
)
def test_no_value_of_a_guarded_config_imports_more(path, imports):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--call", type=Callable)
    with guarded():
        if imports:
            parser.parse_object({"call": path})
        else:
            with pytest.raises(ArgumentError) as refused:
                parser.parse_object({"call": path})
            assert denied_import(refused.value) == path


@pytest.fixture
def trained(tmp_path):
    """A checkpoint with its config, and beside it a module that makes a folder when it is imported."""
    fit(
        module(),
        ModelCheckpoint(tmp_path, "last", every_n_train_steps=1),
        max_steps=1,
        enable_checkpointing=True,
    )
    (tmp_path / "evil.py").write_text(
        f"import os\nfrom freeflow_lightning.teachers import "
        f"GaussianMixtureTeacher\nos.mkdir({CANARY!r})\n"
        "class Mixture(GaussianMixtureTeacher): pass\n"
    )
    return tmp_path / "last.ckpt"


def renamed(path, change):
    """A checkpoint with a changed config."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["hyper_parameters"])
    torch.save(checkpoint, "changed.ckpt")
    return "changed.ckpt"


def with_class(config):
    config["init_args"]["teacher"]["class_path"] = "evil.Mixture"


HIDDEN = {
    "the recipe": lambda config: config.update(class_path="evil.Mixture"),
    "the teacher": with_class,
    "an argument of the network": lambda config: config["init_args"]["network"]["init_args"].update(
        sample_shape={"class_path": "evil.Mixture"}
    ),
    "a class given as a string": lambda config: config["init_args"].update(teacher="evil.Mixture"),
    "a function given as a string": lambda config: config["init_args"].update(
        teacher={
            "class_path": "freeflow_lightning.teachers.VelocityTeacher",
            "init_args": {"function": "evil.f", "sample_shape": [2]},
        }
    ),
    "YAML in a string": lambda config: config["init_args"].update(
        network="{class_path: evil.Mixture}"
    ),
    "an option of no class": lambda config: config["init_args"].update(
        lora={"rank": 1, "networks": {"class_path": "evil.A"}}
    ),
}


@pytest.mark.parametrize("where", HIDDEN)
def test_a_checkpoint_imports_no_module_of_the_current_folder(trained, where, monkeypatch):
    monkeypatch.syspath_prepend(str(trained.parent))
    path = renamed(trained, HIDDEN[where])
    for opens in (FlowMap.from_checkpoint, FreeFlowModule.load_from_checkpoint):
        with pytest.raises(ValueError, match=r"evil\.") as refused:
            opens(path)
        assert not Path(CANARY).exists()
        assert len(str(refused.value).splitlines()) < 20


def test_the_class_and_the_option_are_named(freeflow, trained):
    path = renamed(trained, with_class)
    for verb in ("sample", "evaluate", "diagnose", "search", "export"):
        code, _, error = freeflow(verb, *(word.format(path) for word in VERBS[verb]))
        assert code == 1, verb
        assert "names evil.Mixture, which is not of this package" in error, verb
        assert "--trust evil.Mixture" in error
        assert len(error.splitlines()) == 2
    assert not Path(CANARY).exists()


def test_a_trusted_class_is_imported(trained, monkeypatch):
    monkeypatch.syspath_prepend(str(trained.parent))
    path = renamed(trained, with_class)
    monkeypatch.delitem(__import__("sys").modules, "evil", raising=False)
    with pytest.raises(ValueError, match=r"does not name evil.Other"):
        FlowMap.from_checkpoint(path, trust="evil.Other")
    assert not Path(CANARY).exists()
    flow_map = FlowMap.from_checkpoint(path, trust=["evil.Mixture"])
    assert type(flow_map.teacher).__name__ == "Mixture"
    assert Path(CANARY).exists()


def test_a_class_that_cannot_be_imported_is_one_line(trained):
    path = renamed(
        trained, lambda config: config["init_args"]["teacher"].update(class_path="my_teacher.Ring")
    )
    for trust in (None, "my_teacher.Ring"):
        with pytest.raises(
            ValueError, match=r"my_teacher.Ring.* run in its folder or set PYTHONPATH"
        ) as refused:
            FlowMap.from_checkpoint(path, trust=trust)
        assert "\n" not in str(refused.value)


def test_ones_own_config_is_trusted_where_it_was_trained(tmp_path, monkeypatch):
    """Only the very config, and only while its classes are found in the same files."""
    (tmp_path / "own_teacher.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "class_path": "freeflow_lightning.FreeFlowModule",
        "init_args": {"teacher": {"class_path": "own_teacher.Mine"}},
    }
    assert class_paths(config)[1] == "own_teacher.Mine"
    assert not is_remembered(config)
    remember_config(config)
    assert is_remembered(config)
    assert not is_remembered(config | {"init_args": config["init_args"] | {"alpha_ref": 0.1}})
    (tmp_path / "elsewhere").mkdir()
    shutil.move("own_teacher.py", "elsewhere/own_teacher.py")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert not is_remembered(config)


def test_what_a_config_names_is_not_trusted_after_training_of_another(tmp_path):
    known = {"class_path": "freeflow_lightning.FreeFlowModule", "init_args": {}}
    remember_config(known)
    assert not is_remembered(known)  # it needs no leave
    assert not (tmp_path / "cache" / "own_runs").exists()


def test_trust_in_a_class_covers_its_module_and_no_other():
    config = {
        "class_path": "a.A",
        "init_args": {
            "x": {"class_path": "a.B"},
            "y": [{"class_path": "b.A"}, {"class_path": "a.os.C"}],
        },
    }
    assert trusted(None, config) == []
    assert trusted("a.A", config) == ["a.A", "a.B"]
    assert trusted(["b.A", "a.A"], config) == ["b.A", "a.A", "a.B"]
    assert trusted("p.q.A", {"class_path": "p.B"}) == ["p.q.A"]


def test_arguments_of_an_exported_network_import_nothing_unasked(tmp_path, monkeypatch):
    from freeflow_lightning.students.export.networks import Unknown
    from freeflow_lightning.students.export.student import take_own_network

    (tmp_path / "good.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, inside: nn.Module): "
        "super().__init__()\n"
    )
    (tmp_path / "bad.py").write_text(f"import os\nos.mkdir({CANARY!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    inside = {"class_path": "bad.Net"}
    with pytest.raises(Exception, match=r"bad\.Net"):
        take_own_network(Unknown("good.Net", {"inside": inside}), None, "good.Net")
    assert not Path(CANARY).exists()
    linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}
    assert (
        type(take_own_network(Unknown("good.Net", {"inside": linear}), None, "good.Net")).__name__
        == "Net"
    )
