"""DDP and FSDP2 over gloo are one process with everybody's rows, and each reads what the others wrote."""

import errno
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException, _wrap_exception

import forks
from freeflow_lightning import FlowMap, FreeFlowModule
from freeflow_lightning.callbacks.ema import average_name, decay_at
from freeflow_lightning.nets import LoRA
from freeflow_lightning.training.checkpoint_files import CheckpointWriteError, write_whole_folder
from freeflow_lightning.training.meta_init import materialize
from freeflow_lightning.training.sharded_checkpoint import (
    by_index,
    by_name,
    check_keys,
    parameter_names,
    read_sharded,
)
from freeflow_lightning.training.sharding import shard
from freeflow_lightning.training.strategies import optimizer_states
from freeflow_lightning.training.strategy_checks import check_strategy
from freeflow_lightning.training.unfinished_validation import PENDING
from parallel_run import module, run, run_each, teacher
from tiny import drawn_together, same

SIZE, ACCUMULATE, CLIP = 8, 2, 0.05
COMMON = {"size": SIZE, "accumulate": ACCUMULATE, "clip": CLIP}
FULL = os.strerror(errno.ENOSPC)


def launch(processes: int, runs: list[dict]) -> dict[str, list[dict]]:
    """What each process of each run holds in the end, in the current folder."""
    forks.run_together(processes, run_each, runs)
    return {
        r["name"]: [
            torch.load(f"{r['name']}_{rank}.pt", weights_only=True) for rank in range(processes)
        ]
        for r in runs
    }


def reference(ranks: int, steps: int, **settings) -> tuple[dict, list[dict]]:
    """Weights and figures of plain PyTorch in one process with the rows of all ranks, average and clipping included."""
    m = module(**settings)
    m.averages[average_name(0.9)] = average = m.make_average("average")
    optimizer, figures = m.configure_optimizers(), []
    for step in range(steps):
        optimizer.zero_grad()
        for micro in range(ACCUMULATE):
            p, c = drawn_together(m, SIZE, step * ACCUMULATE + micro, ranks)
            done = m.loss((p, c))
            (done.loss / ACCUMULATE).backward()
        norms = {
            f"gradient/{n}": float(torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP))
            for n, net in m.networks().items()
        }
        figures.append({"correction/lambda": float(done.scalars["correction/lambda"])} | norms)
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), m.student.parameters(), strict=True):
                old.lerp_(new, 1 - decay_at(step + 1, 0.9))
    return m.state_dict(), figures


def assert_close(found: dict, expected: dict, start: dict, share: float = 1e-2) -> None:
    """Within a share of what each weight has moved."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        moved = (value - start[name]).abs().max() if name in start else value.abs().max()
        assert (found[name] - value).abs().max() <= share * moved + 1e-6, name


def start() -> dict:
    m = module()
    return m.state_dict() | {f"averages.ema_0_9.{k}": v for k, v in m.student.state_dict().items()}


@pytest.mark.slow
def test_averages_come_and_go_between_sharded_runs(tmp_path):
    """From a folder and from a file, read share by share: a new average starts from the student as it was saved."""
    more = COMMON | {"steps": 3, "decays": [0.5]}
    runs = [
        {"name": "folder", "sharded": True, **COMMON | {"steps": 2}},
        {"name": "file", "strategy": "fsdp2", **COMMON | {"steps": 2, "lengths": [0.1]}},
        {
            "name": "folder_from_folder",
            "sharded": True,
            "resume": "checkpoints/folder.ckpt",
            **more,
        },
        {
            "name": "file_from_folder",
            "strategy": "fsdp2",
            "resume": "checkpoints/folder.ckpt",
            **more,
        },
        {"name": "file_from_file", "strategy": "fsdp2", "resume": "checkpoints/file.ckpt", **more},
        {
            "name": "both",
            "sharded": True,
            "resume": "checkpoints/folder.ckpt",
            **more | {"decays": [0.5, 0.9]},
        },
    ]
    found = {name: both[0]["weights"] for name, both in launch(2, runs).items()}
    snapshot = load_file("file/ema_snapshots/step_00000002.safetensors")  # whole, of shards
    length = "averages.ema_length_0_1."
    assert len(snapshot) == len([key for key in found["file"] if key.startswith(length)])
    for key, value in snapshot.items():
        assert torch.equal(value, found["file"][f"averages.{key}"])
    for name in ("folder_from_folder", "file_from_folder", "file_from_file", "both"):
        names = {key.split(".")[1] for key in found[name] if key.startswith("averages.")}
        assert names == ({"ema_0_5", "ema_0_9"} if name == "both" else {"ema_0_5"})
        before = found["file" if name == "file_from_file" else "folder"]
        for key, new in found[name].items():
            if key.startswith("averages.") and new.is_floating_point():
                _, average, rest = key.split(".", 2)
                old = before[f"student.{rest}" if average == "ema_0_5" else key]
                decay = decay_at(3, 0.5 if average == "ema_0_5" else 0.9)
                expected = torch.lerp(old, found[name][f"student.{rest}"], 1 - decay)
                torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_processes_under_every_strategy(tmp_path):
    """Accumulation, clipping, averages, validation and checkpoints; then on from one another's checkpoints."""
    more = COMMON | {"steps": 6}
    runs = [
        {"name": "ddp", "strategy": "ddp", "validate": True, **COMMON},
        {"name": "file", "strategy": "fsdp2", "validate": True, **COMMON},
        {"name": "folder", "sharded": True, **COMMON},
        {"name": "ddp_from_folder", "strategy": "ddp", "resume": "checkpoints/folder.ckpt", **more},
        {"name": "file_from_ddp", "strategy": "fsdp2", "resume": "checkpoints/ddp.ckpt", **more},
        {"name": "folder_from_file", "sharded": True, "resume": "checkpoints/file.ckpt", **more},
        {
            "name": "file_from_folder",
            "strategy": "fsdp2",
            "resume": "checkpoints/folder.ckpt",
            **more,
        },
    ]
    found = launch(2, runs)
    for both in found.values():
        assert same(both[0]["weights"], both[1]["weights"])
    first = {name: both[0] for name, both in found.items()}

    begin, (weights, figures) = start(), reference(2, 4)
    for name in ("ddp", "file", "folder"):
        assert_close(first[name]["weights"], weights, begin)
        last_of_each_step = first[name]["seen"][ACCUMULATE - 1 :: ACCUMULATE]
        for seen, expected in zip(last_of_each_step, figures, strict=True):
            assert seen == pytest.approx(expected, rel=1e-3)
    assert all(figure["gradient/student"] > CLIP for figure in figures)
    further, _ = reference(2, 6)
    for name in ("ddp_from_folder", "file_from_ddp", "folder_from_file", "file_from_folder"):
        assert_close(first[name]["weights"], further, begin)

    whole, halves = first["ddp"]["held"], [rank["held"] for rank in found["file"]]
    assert halves[0].keys() == {"teacher", "student", "auxiliary", "ema_0_9"}
    for name, count in whole.items():  # padded to whole rows
        assert count <= halves[0][name] + halves[1][name] <= 1.01 * count
        assert halves[0][name] < 0.6 * count, name
    one = validated_alone()
    shared = [
        name for name in one if name.startswith(("fid/", "error/"))
    ]  # the spread is each process's own
    assert {"fid/student", "fid/floor", "error/endpoint"} < set(shared)
    for name in ("ddp", "file"):
        assert [first[name]["figures"][figure] for figure in shared] == pytest.approx(
            [one[figure] for figure in shared], rel=1e-3
        )
    assert first["file"]["figures"] == pytest.approx(first["ddp"]["figures"], rel=1e-3)
    assert (
        len(list(Path("file/samples").glob("*.png")))
        == len(list(Path("ddp/samples").glob("*.png")))
        >= 2
    )

    by_path = {
        kind: FlowMap.from_checkpoint(f"checkpoints/{kind}.ckpt", teacher=teacher())
        for kind in ("ddp", "file", "folder")
    }
    for name, value in by_path["folder"].network.state_dict().items():
        assert torch.equal(value, first["folder"]["weights"][f"averages.ema_0_9.{name}"])
    samples = {kind: student.sample(4) for kind, student in by_path.items()}
    for kind in ("file", "folder"):
        assert torch.allclose(samples[kind], samples["ddp"], atol=1e-3)

    held = read_sharded(Path("checkpoints/folder.ckpt"))
    plain = torch.load("checkpoints/ddp.ckpt", weights_only=True)
    assert held.keys() - {PENDING} == plain.keys() - {
        PENDING
    }  # the run of the folder does not validate
    for k, state in plain["optimizer_states"][0]["state"].items():
        assert torch.allclose(
            held["optimizer_states"][0]["state"][k]["exp_avg"], state["exp_avg"], atol=1e-6
        ), k
    run(
        "alone", resume="checkpoints/folder.ckpt", **more
    )  # and in one process, where other rows are drawn
    assert torch.load("checkpoints/alone.ckpt", weights_only=True)["global_step"] == 6


def validated_alone() -> dict:
    run("one", validate=True, steps=1)
    return torch.load("one_0.pt", weights_only=True)["figures"]


@pytest.mark.slow
def test_fsdp2_with_what_can_be_combined_with_it():
    settings = {
        "exact": {"prediction": "continuous"},
        "filled": {"meta_init": True},
        "recomputed": {"activation_checkpointing": True, "compile": "aot_eager"},
    }
    runs = [
        {"name": name, "strategy": "fsdp2", **COMMON, "steps": 2, "settings": s}
        for name, s in settings.items()
    ]
    mixed = {"name": "mixed", "strategy": "fsdp2", **COMMON, "steps": 2, "precision": "bf16-mixed"}
    found = launch(2, [*runs, mixed])
    _, figures = reference(2, 2)
    for seen, expected in zip(
        found["mixed"][0]["seen"][ACCUMULATE - 1 :: ACCUMULATE], figures, strict=True
    ):
        assert seen == pytest.approx(expected, rel=0.05)
    for name, setting in settings.items():
        weights, _ = reference(
            2, 2, **{key: value for key, value in setting.items() if key == "prediction"}
        )
        assert_close(found[name][0]["weights"], weights, start())


@pytest.mark.slow
def test_four_processes_and_another_number_of_them():
    runs = [
        {"name": "ddp4", "strategy": "ddp", **COMMON, "steps": 2},
        {"name": "fsdp4", "sharded": True, **COMMON, "steps": 2},
    ]
    found = launch(4, runs)
    weights, _ = reference(4, 2)
    for name in ("ddp4", "fsdp4"):
        assert same(found[name][0]["weights"], found[name][3]["weights"])
        assert_close(found[name][0]["weights"], weights, start())
    run("alone", resume="checkpoints/fsdp4.ckpt", **COMMON | {"steps": 3})
    assert torch.load("checkpoints/alone.ckpt", weights_only=True)["global_step"] == 3


def test_what_would_train_wrongly_is_refused():
    mesh = ModelParallelStrategy()
    for size, precision, cause in (
        (2, "32-true", "tensor_parallel_size 2: .* use --trainer.strategy fsdp2"),
        (1, "bf16-true", "bf16-mixed"),
    ):
        mesh._device_mesh = {"tensor_parallel": SimpleNamespace(size=lambda size=size: size)}
        with pytest.raises(ValueError, match=cause):
            check_strategy(mesh, precision)
    with pytest.raises(ValueError, match=r"fsdp is not supported: .* use --trainer.strategy fsdp2"):
        check_strategy(FSDPStrategy(), "32-true")


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2"])
def test_the_command_names_the_alternative(freeflow, strategy):
    config = "--model.teacher", "SiTTeacher", "--model.teacher.checkpoint", "embedded:digits"
    code, _, err = freeflow("fit", *config, "--trainer.strategy", strategy)
    assert code == 1
    assert f"--trainer.strategy {strategy.split('_')[0]} is not supported" in err
    assert "use --trainer.strategy fsdp2" in err


def test_adapters_are_not_sharded():
    pytest.importorskip("peft")
    m = FreeFlowModule(teacher(), lora=LoRA(rank=2), check_teacher=False)
    with pytest.raises(ValueError, match=r"lora under fsdp2: .* use --trainer.strategy ddp"):
        shard(m.networks_to_shard(), None, {})


def test_narrow_weights_are_not_sharded():
    m = module()
    m.student.bfloat16()
    with pytest.raises(ValueError, match=r"fsdp2 trains float32 weights, .* bf16-mixed"):
        shard(m.networks_to_shard(), None, {})


def test_networks_without_weights_get_the_teachers(freeflow, tmp_path):
    torch.manual_seed(0)
    empty = FreeFlowModule(teacher(), meta_init=True)
    assert all(
        p.is_meta for net in (empty.student, empty.auxiliary) for p in net.backbone.parameters()
    )
    torch.manual_seed(0)
    assert same(FreeFlowModule(teacher()).state_dict(), filled(empty).state_dict())
    for settings in ({"network": teacher().network()}, {"lora": LoRA()}):
        with pytest.raises(ValueError, match="meta_init copies the teacher's own network"):
            FreeFlowModule(teacher(), meta_init=True, **settings)
    model = "--model.teacher SiTTeacher --model.teacher.checkpoint embedded:digits --model.meta_init true"
    run = "--trainer.max_steps 2 --trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.callbacks+ StudentEMA"
    code, _, err = freeflow(
        "fit", *model.split(), "--data.batch_size", 4, "--data.length", 2, *run.split()
    )
    assert code == 0, err
    (path,) = Path("runs/default/version_0/checkpoints").iterdir()
    student, held = FlowMap.from_checkpoint(path), torch.load(path, weights_only=True)["state_dict"]
    assert same(
        dict(student.network.state_dict()),
        {k.split(".", 2)[2]: v for k, v in held.items() if k.startswith("averages.")},
    )


def filled(m: FreeFlowModule) -> FreeFlowModule:
    materialize(m, m.meta_weights())
    return m


def write(folder: Path, content: str) -> None:
    with write_whole_folder(folder, lambda: None, first=True) as temporary:
        temporary.mkdir()
        (temporary / "meta.pt").write_text(content)
        if content == "broken":
            raise KeyboardInterrupt


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "last.ckpt"
    write(folder, "one")
    write(folder, "two")
    with pytest.raises(KeyboardInterrupt):
        write(folder, "broken")
    assert (folder / "meta.pt").read_text() == "two"
    assert list(tmp_path.glob("*.ckpt")) == [folder]


def test_a_full_disk_leaves_nothing_and_names_the_last_good_folder(tmp_path):
    def fill(folder):
        with write_whole_folder(folder, lambda: None, first=True) as temporary:
            temporary.mkdir()
            raise CheckpointException("", {1: _wrap_exception(OSError(errno.ENOSPC, FULL))})

    folder = tmp_path / "last.ckpt"
    with pytest.raises(
        CheckpointWriteError, match=rf"last.ckpt: {FULL}: .* MiB are free; no check"
    ):
        fill(folder)
    assert not list(tmp_path.iterdir())
    state = {"state_dict": {"weight": torch.ones(3)}, "optimizer_0": {"moment": torch.ones(3)}}
    torch.distributed.checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"lr_schedulers": [], "loops": {}}, folder / "meta.pt")
    with pytest.raises(CheckpointWriteError, match=rf"go on with --ckpt_path {folder}$"):
        fill(tmp_path / "next.ckpt")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_one_process_without_space_ends_both_with_the_last_good_folder(tmp_path):
    runs = [
        {"name": "good", "sharded": True, **COMMON | {"steps": 1}},
        {"name": "full", "sharded": True, "full_rank": 1, **COMMON | {"steps": 1}},
    ]
    for said in launch(2, runs)["full"]:
        assert FULL in said["error"]
        assert said["error"].endswith("/checkpoints/good.ckpt")
        assert "make room and go on with --ckpt_path /" in said["error"]
        assert "\n" not in said["error"]
    assert os.listdir("checkpoints") == ["good.ckpt"]


def test_nothing_in_a_folder_is_executed(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    folder = tmp_path / "a.ckpt"
    folder.mkdir()
    torch.save({}, folder / "meta.pt")
    (folder / ".metadata").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="loading it would run code"):
        FlowMap.from_checkpoint(folder, teacher=teacher())
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_of_another_module_is_refused():
    net = torch.nn.Linear(2, 2)
    check_keys(net, ["weight", "bias"], Path("x.ckpt"))
    with pytest.raises(
        RuntimeError, match=r"missing \['bias'\] \(1 in all\), unexpected \['scale'\]"
    ):
        check_keys(net, ["weight", "scale"], Path("x.ckpt"))


def test_an_optimizers_state_by_name_and_by_place():
    m = module()
    optimizer = m.configure_optimizers()
    m.loss(m.draw(8, torch.Generator().manual_seed(0))).loss.backward()
    optimizer.step()
    names, state = parameter_names(optimizer, m), optimizer.state_dict()
    assert names[0].startswith("student.")
    named = by_name(state, names)
    assert torch.equal(
        named["state"][names[-1]]["exp_avg"],
        optimizer.state[dict(m.named_parameters())[names[-1]]]["exp_avg"],
    )
    assert same(by_index(named, names), state)


@pytest.mark.parametrize("content", [{}, {"optimizer_states": []}])
def test_training_does_not_go_on_from_weights_alone(content):
    with pytest.raises(ValueError, match=r"a\.ckpt holds weights without the optimizer's state"):
        optimizer_states(content, Path("a.ckpt"))
    assert optimizer_states({"optimizer_states": [{"state": {}}]}, Path("a.ckpt")) == [
        {"state": {}}
    ]
