"""What only a GPU can show: pytest -m gpu -n 4."""

import copy
import os
import sys

import pytest
import torch

from freeflow_lightning import FlowMap, FreeFlowModule, PosteriorModule
from freeflow_lightning.callbacks import HealthMonitor, PeriodicFID, StudentEMA, TrajectoryError
from freeflow_lightning.flow import ExactJVP, training_generator
from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.sampling.counter_noise import counter_noise
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.teachers import DDPMTeacher
from nets.random_weights import tiny_sit
from places import ROOT
from recipes.every_recipe import RECIPES
from tiny import data, fit, mixture, module, same, weights

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_samples_start_from_the_same_noise_as_on_a_cpu(version):
    index = torch.arange(5)
    here, there = (Draw(3, version=version).noise(mixture(), index, d) for d in ("cpu", "cuda"))
    assert torch.equal(here[0], there[0].cpu())
    assert torch.equal(here[1], there[1].cpu())
    assert torch.equal(counter_noise(index, (2,), seed=3), here[0]) == (version == "v2")


def test_the_flash_derivative_is_the_math_kernels():
    pytest.importorskip("jvp_flash_attention")
    backbone = tiny_sit(input_size=16, hidden_size=48, num_heads=2)
    net = ScalarConditioned(backbone, ("delta", "gamma")).cuda()
    x = torch.randn(8, *net.backbone.sample_shape, device="cuda")
    delta, labels = torch.rand(8, device="cuda"), torch.arange(8, device="cuda") % 5

    def average(z, delta):
        return net(z, torch.ones_like(delta), labels, delta=delta, gamma=torch.ones_like(delta))

    slope = {kind: ExactJVP(attention=kind)(average, x, delta) for kind in ("math", "flash")}
    torch.testing.assert_close(slope["flash"], slope["math"], rtol=2e-2, atol=2e-2)


def test_a_run_is_repeated_bit_for_bit():
    ends = []
    for _ in range(2):
        m = module()
        fit(m, max_steps=4, accelerator="gpu", devices=1, deterministic=True)
        ends.append(weights(m))
    torch.use_deterministic_algorithms(False)
    assert same(*ends)


def watchers():
    fid = PeriodicFID(reference_samples=8, steps=2, features="flat")
    return [
        StudentEMA(),
        fid,
        TrajectoryError(count=4, points=2, steps=2),
        HealthMonitor(count=4),
    ]


def run(made, *callbacks, **changes):
    prior = data(batch_size=4, val_samples=8, val_batch_size=8)
    return fit(made, *callbacks, prior=prior, accelerator="gpu", devices=1, **changes)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_its_student_draws_what_it_draws_on_a_cpu(
    name, precision, tmp_path
):
    made = RECIPES[name]()
    before = copy.deepcopy(weights(made.student))
    trainer = run(made, *watchers(), precision=precision)
    assert not same(before, {k: v.cpu() for k, v in weights(made.student).items()})
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    teacher = RECIPES[name]().teacher
    student = FlowMap.from_checkpoint(tmp_path / "end.ckpt", teacher=teacher)
    here = student.sample(4, seed=3)
    there = student.to("cuda").sample(4, seed=3)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=1e-2)


def test_a_recipe_is_where_its_teacher_is():
    teacher = RECIPES["freeflow"]().teacher.cuda()
    made = [
        FreeFlowModule(teacher, check_teacher=False),
        PosteriorModule(teacher, check_teacher=False),
    ]
    assert {p.device.type for m in made for p in m.parameters()} == {"cuda"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_cut_run_goes_on_bit_for_bit(name, tmp_path):
    whole, half, again = (RECIPES[name]() for _ in range(3))
    run(whole, StudentEMA(), deterministic=True)
    run(half, StudentEMA(), deterministic=True, max_steps=2).save_checkpoint(tmp_path / "h.ckpt")
    run(again, StudentEMA(), deterministic=True, ckpt_path=tmp_path / "h.ckpt")
    torch.use_deterministic_algorithms(False)
    assert same(weights(again), weights(whole))


CONFIGS = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
SMALL = {
    "trainer.accelerator": "gpu",
    "trainer.max_steps": 2,
    "trainer.enable_progress_bar": "false",
    "data.batch_size": 8,
    "data.length": 2,
    "data.val_samples": 0,
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_method_trains(config, freeflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--{key}={value}" for key, value in SMALL.items()]
    code, _, error = freeflow("fit", "--config", config, *words, "--trainer.callbacks", "[]")
    assert code == 0, error


QUICK = ("--num_samples", 20, "--device", "cuda")
FEW = ("--reference_samples", 20, "--reference_steps", 2, "--paired_samples", 8)
VERBS = {
    "sample": ("--output", "out"),
    "sample, teacher": ("--output", "out", "--teacher=true", "--steps", 2),
    "evaluate": (*FEW, "--features", "flat", "--output", "out"),
    "diagnose": ("--fine_steps", 8, "--auxiliary_steps", 1, "--batch_size", 16),
    "search": ("--candidates", 3, "--teacher_steps", 2, "--verifier", "bright.brightness"),
    "export": ("--output", "student", "--pipeline"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_runs(verb, freeflow, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright.py").write_text(
        "def brightness(pictures, condition):\n    return pictures.float().mean((1, 2, 3))\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    words = (*QUICK[2 * (verb == "export") :], *VERBS[verb])
    code, _, error = freeflow(verb.split(",")[0], "--checkpoint", checkpoint, *words)
    assert code == 0, error


def test_a_report_is_written(freeflow, checkpoint):
    words = ("--num_samples", 20, "--features", "flat", "--device", "cuda")
    code, _, error = freeflow("report", checkpoint.parents[1], *words)
    assert code == 0, error


@pytest.mark.parametrize("name", [*RECIPES, "freeflow, DDPM"])
def test_no_step_waits_for_the_device(name):
    recipe = RECIPES[name.split(",")[0]]()
    if "DDPM" in name:
        teacher = DDPMTeacher(tiny_sit(seed=1), (3, 4, 4), num_classes=5)
        recipe = FreeFlowModule(teacher, check_teacher=False)
    recipe.cuda()
    assert recipe.student_scale > 0  # asked once, when the optimizer is made
    for batch in range(2):
        torch.cuda.synchronize()
        draw = recipe.draw(8, training_generator(0, 0, batch, torch.device("cuda")))
        torch.cuda.set_sync_debug_mode("error")
        try:
            recipe.loss(draw).loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
