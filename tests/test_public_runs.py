"""A tiny SiT in each public layout through fit, a checkpoint, resuming and sampling: the layout leaves no trace."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning import FlowMap, FreeFlowModule
from freeflow_lightning.objectives import DiscretePrediction
from freeflow_lightning.teachers import SiTTeacher
from teachers.public_sit import HEADS, state_dict
from teachers.reading.test_sit_files import LAYOUTS
from tiny import data, fit, same, weights


def recipe(path, convention):
    torch.manual_seed(0)  # the new embedders
    teacher = SiTTeacher(path, convention, num_heads=HEADS)
    return FreeFlowModule(
        teacher,
        prediction=DiscretePrediction(2),
        student_lr=1e-3,
        auxiliary_lr=1e-3,
        check_teacher=False,
    )


def run(path, convention, folder, max_steps, ckpt_path=None):
    m, keep = (
        recipe(path, convention),
        ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1),
    )
    fit(m, keep, prior=data(), max_steps=max_steps, enable_checkpointing=True, ckpt_path=ckpt_path)
    return m


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The student's weights after two steps without a stop, from the raw layout, by convention."""
    folder = tmp_path_factory.mktemp("raw")
    torch.save(state_dict(), folder / "weights.pt")
    return {
        name: weights(run(folder / "weights.pt", name, folder / name, 2).student)
        for name in ("sit", "repa")
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fit_resume_and_sample(tmp_path, raw, layout):
    convention = "repa" if "REPA" in layout or layout == "decoder_blocks" else "sit"
    path, folder = tmp_path / "weights.pt", tmp_path / "run"
    torch.save(LAYOUTS[layout][0](state_dict()), path)
    run(path, convention, folder, 1)
    m = run(path, convention, folder / "resumed", 2, folder / "step=1.ckpt")
    assert same(weights(m.student), raw[convention])
    checkpoint = folder / "resumed" / "step=2.ckpt"
    assert not any(
        "teacher" in key or "vae" in key
        for key in torch.load(checkpoint, weights_only=True)["state_dict"]
    )
    plain = recipe(path, convention)
    torch.save(
        torch.load(checkpoint, weights_only=True) | {"hyper_parameters": config(path, convention)},
        checkpoint,
    )
    flow_map = FlowMap.from_checkpoint(checkpoint)
    assert same(weights(flow_map.network), weights(m.student))
    assert torch.equal(flow_map.sample(3, seed=1), FlowMap(m.student, m.teacher).sample(3, seed=1))
    assert not torch.equal(
        flow_map.sample(3, seed=1), FlowMap(plain.student, plain.teacher).sample(3, seed=1)
    )


def config(path, convention):
    """What `freeflow fit` would have written into the checkpoint."""
    arguments = {"checkpoint": str(path), "convention": convention, "num_heads": HEADS}
    teacher = {"class_path": "freeflow_lightning.teachers.SiTTeacher", "init_args": arguments}
    return {"class_path": "freeflow_lightning.FreeFlowModule", "init_args": {"teacher": teacher}}


@pytest.mark.parametrize("convention", ["sit", "repa"])
def test_a_new_student_is_the_teacher_at_the_prior(tmp_path, convention):
    torch.save(state_dict(), tmp_path / "weights.pt")
    m = recipe(tmp_path / "weights.pt", convention)
    z, y = m.teacher.draw_indexed(torch.arange(4), seed=0, stream="test")
    one = torch.ones(4)
    F = m.student(z, one, y, delta=0 * one, gamma=one)
    assert torch.equal(F, m.teacher(z, one, y))
