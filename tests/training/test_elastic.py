"""Jobs of torchrun whose processes die: they go on from the last checkpoint, and end as if nothing had happened."""

import random

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

import elastic_job
import forks
from freeflow_lightning.training.elastic import elastic_file, is_restarted, launched_processes
from freeflow_lightning.training.resuming import checkpoint_of_job
from tiny import data, fit, module, same
from training.test_resuming import save

STEPS = 60


def settings() -> dict:
    """Two processes that a config for one is given; checkpoints every five steps."""
    last = {"filename": "last", "every_n_train_steps": 5, "enable_version_counter": False}
    teacher = {"means": [[2.0, 0.0], [-2.0, 0.5]], "std": 0.4, "labels": [0, 1]}
    network = {"sample_shape": [2], "hidden_size": 16, "depth": 2, "num_classes": 2}
    return {
        "model": {
            "class_path": "FreeFlowModule",
            "init_args": {
                "teacher": {"class_path": "GaussianMixtureTeacher", "init_args": teacher},
                "network": {"class_path": "freeflow_lightning.nets.MLP", "init_args": network},
            },
        },
        "data": {"init_args": {"batch_size": 8, "length": 20, "global_batch_size": 16}},
        "trainer": {
            "accelerator": "cpu",
            "strategy": "ddp",
            "devices": 1,
            "max_steps": STEPS,
            "enable_progress_bar": False,
            "callbacks": [
                {"class_path": "StudentEMA"},
                {"class_path": "ModelCheckpoint", "init_args": last},
            ],
        },
    }


@pytest.mark.slow
def test_a_job_of_which_any_process_is_killed_ends_as_one_that_is_left_alone(tmp_path):
    jobs = {"alone": "none", "killed": str(random.randrange(2))}
    for name in jobs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.yaml").write_text(yaml.safe_dump(settings()))
    for name, victim in jobs.items():
        documented = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # docs/long_runs.md
        forks.run(elastic_job.launch, str(tmp_path / name), victim, said=name, **documented)
    for name in jobs:  # it goes on from a checkpoint where a process has died
        assert ("Restored all states" in forks.heard(name)[1]) == (name == "killed")
    [alone], [killed] = (
        list((tmp_path / name).rglob("last.ckpt")) for name in jobs
    )  # it goes on in its folder
    alone, killed = (torch.load(path, weights_only=True) for path in (alone, killed))
    assert killed["global_step"] == alone["global_step"] == STEPS
    assert killed["effective_batch"] == {"processes": 2, "samples": 16, "per_step": 1}
    for key, value in alone["state_dict"].items():
        assert torch.equal(killed["state_dict"][key], value), key


# What a process knows of its job


@pytest.fixture
def torchrun(monkeypatch):
    """Set torchrun's variables; its own are put aside."""

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_all


def test_processes_are_those_that_torchrun_has_started(torchrun):
    assert launched_processes() is None
    torchrun(TORCHELASTIC_RUN_ID="a/b", LOCAL_WORLD_SIZE=4, WORLD_SIZE=8, GROUP_WORLD_SIZE=2)
    assert launched_processes() == (4, 2)
    assert elastic_file() == "torchrun_a_b"
    torchrun(WORLD_SIZE=6)
    with pytest.raises(ValueError, match="6 on 2 nodes, 4 of them on this one"):
        launched_processes()


def test_a_named_job_finds_its_run_on_a_node_that_has_joined_later(torchrun, tmp_path):
    mine = save(tmp_path / "version_0/checkpoints/last.ckpt", 100)
    save(tmp_path / "version_1/checkpoints/last.ckpt", 200)
    (tmp_path / "version_0/torchrun_mine").touch()
    torchrun(TORCHELASTIC_RUN_ID="mine", TORCHELASTIC_RESTART_COUNT=0)
    assert checkpoint_of_job(tmp_path).path == mine
    torchrun(TORCHELASTIC_RUN_ID="other")
    assert checkpoint_of_job(tmp_path) is None


def test_a_job_without_a_name_goes_on_with_the_newest_run_alone(torchrun, tmp_path):
    for n in (0, 1):
        (tmp_path / f"version_{n}").mkdir()
        (tmp_path / f"version_{n}/torchrun_none").touch()
    save(tmp_path / "version_0/checkpoints/last.ckpt", 100)  # perhaps of another job
    torchrun(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT=0)
    assert not is_restarted()
    torchrun(TORCHELASTIC_RESTART_COUNT=1)
    assert checkpoint_of_job(tmp_path) is None
    mine = save(tmp_path / "version_1/checkpoints/last.ckpt", 50)
    assert checkpoint_of_job(tmp_path).path == mine


# A global batch


def test_a_run_goes_on_with_the_same_batch_where_it_takes_more_turns(tmp_path, said):
    """As if half of the processes were gone: each of the others takes twice as many rows, at once or in turns."""
    ends, steps_after = [], []

    def train(most, steps, **more):
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        prior = data(batch_size=most, length=4, global_batch_size=16)
        m = module()
        m.on_train_epoch_end = lambda: ends.append(m.global_step)
        m.on_train_batch_end = lambda *_: steps_after.append(m.global_step)
        run = fit(m, keep, prior=prior, max_steps=steps, enable_checkpointing=True, **more)
        return prior.shares, run.fit_loop.total_batch_idx + 1

    assert train(16, 6) == ((16, 1), 6)
    before = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
    assert train(4, 10, ckpt_path=tmp_path / "step=6.ckpt") == ((4, 4), 6 + 4 * 4)
    four_each = [step + k // 4 for step in range(6, 10) for k in (1, 2, 3, 4)]
    assert steps_after == [1, 2, 3, 4, 5, 6, *four_each]
    assert ends == [4, 6, 8, 10]  # steps: of whole epochs, and where a run ends
    assert not [line for line in said() if "effective batch" in line]
    assert before["effective_batch"] == {"processes": 1, "samples": 16, "per_step": 1}
    after = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
    assert same(before["loops"], after["loops"])  # not written again in the middle of the next step


def test_another_batch_is_said_and_an_uneven_one_refused(tmp_path, said):
    keep = ModelCheckpoint(tmp_path, "one")
    fit(module(), keep, max_steps=1, enable_checkpointing=True)
    path = tmp_path / "one.ckpt"
    fit(module(), ckpt_path=path, prior=data(batch_size=4), max_steps=2)
    assert "the effective batch is 4 (it was 8); --data.global_batch_size 8 keeps it" in said()
    prior = data(global_batch_size=16)
    with pytest.raises(ValueError, match=r"leave trainer\.accumulate_grad_batches"):
        fit(module(), prior=prior, accumulate_grad_batches=2)
