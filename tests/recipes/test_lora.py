"""FreeFlowModule on one shared backbone: what is trained, saved, averaged, loaded and merged."""

import gc
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch._subclasses.fake_tensor import FakeTensor

from freeflow_lightning import FlowMap, FreeFlowModule
from freeflow_lightning.callbacks import NetworkSummary, StudentEMA
from freeflow_lightning.flow import CentralDifference, training_generator
from freeflow_lightning.nets import MLP, Adapter, LoRA, merge
from freeflow_lightning.objectives import ContinuousPrediction, DiscretePrediction
from freeflow_lightning.profiling.no_data import no_data
from freeflow_lightning.profiling.step_memory import estimate, sit_teacher
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.teachers import VelocityTeacher
from tiny import fit, learned_teacher, mixture, mlp, module, same, weights

SHARED = LoRA(rank=2)


def shared(lora=SHARED, **changes):
    return module(learned_teacher(), network=None, lora=lora, **changes)


def question(m, n=5):
    z, condition = m.teacher.draw_indexed(torch.arange(n), seed=0, stream="test")
    return z, torch.full((n,), 0.7), condition


def test_everything_starts_as_the_teacher_and_the_teacher_is_untouched():
    m = shared(shake=False)
    z, t, condition = question(m)
    u = learned_teacher()(z, t, condition)
    assert torch.equal(m.teacher(z, t, condition), u)
    assert torch.equal(m.student(z, t, condition, delta=t, gamma=t), u)
    assert torch.equal(m.auxiliary(z, t, condition, gamma=t), u)


@pytest.mark.parametrize("networks", [("student", "auxiliary"), ("auxiliary",), ("student",)])
def test_a_step_moves_the_adapters_and_leaves_the_teacher(networks):
    m = shared(LoRA(rank=2, networks=networks), shake=False)
    z, t, condition = question(m)
    before = weights(m.student), weights(m.auxiliary), m.teacher(z, t, condition)
    for name, network in m.networks().items():
        assert isinstance(network.backbone, Adapter) == (name in networks)
    m.alpha = 0.3
    fit(m, max_steps=3)
    assert torch.equal(m.teacher(z, t, condition), before[2])
    for network, old in zip((m.student, m.auxiliary), before, strict=False):
        assert all(
            not torch.equal(value, old[name])
            for name, value in network.state_dict().items()
            if "lora_B" in name
        )
        assert not same(weights(network), old)


def test_the_step_is_that_of_full_networks_at_the_start():
    """Adapters that add 0 give the residuals of copies."""
    full, adapted = module(learned_teacher(), network=None, shake=False), shared(shake=False)
    for made in (full, adapted):
        made.alpha = 0.3
    a, b = (m.loss(m.draw(16, training_generator(0, 0, 0))) for m in (full, adapted))
    assert torch.equal(a.residuals["prediction"].error, b.residuals["prediction"].error)
    assert torch.equal(a.residuals["auxiliary"].error, b.residuals["auxiliary"].error)
    assert torch.equal(a.loss, b.loss)


def test_a_checkpoint_holds_adapters_and_scalars_alone_and_loads_strictly(tmp_path):
    m = shared()
    fit(m, StudentEMA([0.5]), ModelCheckpoint(tmp_path, filename="last"), enable_checkpointing=True)
    keys = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"].keys()
    assert {key.split(".")[0] for key in keys} == {"student", "auxiliary", "averages"}
    assert all(".lora_" in key or ".embedders." in key for key in keys)
    twin = shared()
    run = fit(twin, StudentEMA([0.5]), ckpt_path=tmp_path / "last.ckpt", max_steps=4)
    assert run.global_step == 4
    assert same(weights(twin), weights(m))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    straight = shared()
    fit(straight, StudentEMA([0.5]), max_steps=6)
    half = shared()
    fit(
        half,
        StudentEMA([0.5]),
        ModelCheckpoint(tmp_path, filename="half"),
        enable_checkpointing=True,
        max_steps=3,
    )
    resumed = shared()
    fit(resumed, StudentEMA([0.5]), ckpt_path=tmp_path / "half.ckpt", max_steps=6)
    assert same(weights(resumed), weights(straight))


def test_the_average_is_an_adapter_of_its_own():
    m = shared()
    start = weights(m.student)
    fit(m, StudentEMA([0.0, 0.9]), max_steps=1)
    newest, slow = m.averages.values()
    assert same(weights(newest), weights(m.student))
    assert not same(weights(slow), start)
    assert not same(weights(slow), weights(m.student))
    assert not any(p.requires_grad for p in slow.parameters())
    assert all(
        p.requires_grad for p in m.student.parameters()
    )  # a further adapter takes no gradients from the first
    assert all(p.requires_grad for p in m.auxiliary.parameters())
    z, t, condition = question(m)
    ask = lambda net: net(z, t, condition, delta=t, gamma=t)
    assert not torch.equal(ask(slow), ask(m.student))
    assert torch.equal(ask(newest), ask(m.student))


def test_a_flow_map_from_the_checkpoint_is_the_average_and_merges(tmp_path):
    m = shared()
    fit(m, StudentEMA([0.5]), ModelCheckpoint(tmp_path, filename="last"), enable_checkpointing=True)
    z, _, condition = question(m)
    one = torch.ones(5)
    expected = z + m.evaluated(z, one, condition, delta=one, gamma=1.5 * one)
    loaded = FlowMap.from_checkpoint(tmp_path / "last.ckpt", teacher=learned_teacher())
    torch.testing.assert_close(loaded(z, condition), expected)
    alone = FlowMap(merge(loaded.network), learned_teacher())
    torch.testing.assert_close(alone(z, condition), expected)
    raw = FlowMap.from_checkpoint(tmp_path / "last.ckpt", teacher=learned_teacher(), average="raw")
    assert not torch.allclose(raw(z, condition), expected)


def test_the_teachers_cached_reference_stays_valid():
    m = shared(shake=False)
    before = fingerprint(learned_teacher(), torch.device("cpu"))
    assert fingerprint(m.teacher, torch.device("cpu")) == before
    fit(m, max_steps=2)
    assert fingerprint(m.teacher, torch.device("cpu")) == before


def test_every_tensor_has_one_owner(capsys):
    m = shared()
    fit(m, StudentEMA([0.5]), NetworkSummary())
    owned = {
        name: sum(tensor.numel() for tensor in tensors)
        for name, tensors in m.tensors_by_network().items()
    }
    teacher = sum(p.numel() for p in learned_teacher().parameters())
    adapters = sum(p.numel() for name, p in m.student.named_parameters() if "lora" in name)
    embedder = sum(p.numel() for p in m.student.embedders["delta"].parameters())
    assert owned["teacher"] == teacher
    assert owned["student"] == owned["ema_0_5"] == adapters + 2 * embedder
    assert owned["auxiliary"] == adapters + embedder
    assert f"{teacher:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "lora", [None, LoRA(rank=2, networks=["auxiliary"]), SHARED], ids=["full", "auxiliary", "both"]
)
@pytest.mark.slow
def test_a_run_holds_what_the_costs_say(lora):
    """Every tensor that is alive after a run, against the estimate made without data."""

    def make():
        net = MLP((2,), hidden_size=64, depth=2, num_classes=2)
        return FreeFlowModule(VelocityTeacher(net, (2,), 2), lora=lora)

    def alive():
        gc.collect()
        tensors = [
            x
            for x in gc.get_objects()
            if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor)
        ]
        return {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}

    costs = estimate(make, batch_size=8)
    before = alive()
    m = make()
    run = fit(m, StudentEMA([0.5]), max_steps=2)
    held = sum(size for storage, size in alive().items() if storage not in before)
    gradients = 0 if next(m.student.parameters()).grad is None else costs.gradients
    assert held == pytest.approx(
        sum(costs.weights.values()) + costs.optimizer + gradients, rel=0.02
    )
    assert run.global_step == 2


def test_shared_backbones_are_in_memory_once():
    """S/2, whose weights are never allocated here."""
    sizes = {}
    for name, lora in {
        "full": None,
        "auxiliary": LoRA(networks=["auxiliary"]),
        "both": LoRA(),
    }.items():
        with no_data():
            m = FreeFlowModule(sit_teacher("S/2", 256), lora=lora)
            m.averages["ema"] = m.make_average("ema")
            sizes[name] = {
                owner: sum(tensor.numel() for tensor in tensors)
                for owner, tensors in m.tensors_by_network().items()
            }
    full, auxiliary, both = sizes.values()
    assert full["teacher"] == auxiliary["teacher"] == both["teacher"]
    assert full["student"] == auxiliary["student"] > 3 * both["student"]
    assert auxiliary["auxiliary"] == both["auxiliary"] < full["auxiliary"] / 3
    assert both["ema"] == both["student"]


def test_half_precision_teachers_have_adapters_in_float32():
    teacher = learned_teacher().bfloat16()
    m = module(teacher, network=None, lora=SHARED, shake=False)
    assert {p.dtype for p in m.student.parameters()} == {torch.float32}


def test_the_device_and_mode_reach_both_sides():
    m = shared(shake=False).double()
    assert {p.dtype for p in m.student.parameters()} == {torch.float64}
    assert {p.dtype for p in m.teacher.parameters()} == {torch.float64}
    assert not m.train().teacher.training


@pytest.mark.parametrize(
    "prediction", [DiscretePrediction(4), ContinuousPrediction(CentralDifference())]
)
def test_dropout_is_refused_where_outputs_are_subtracted(prediction):
    with pytest.raises(
        ValueError,
        match=r"Prediction subtracts two outputs .* dropout in .*lora_dropout .*lora\.dropout",
    ):
        shared(LoRA(rank=2, dropout=0.1), prediction=prediction)


def test_dropout_is_fine_with_the_exact_derivative_and_in_the_auxiliary_network():
    shared(LoRA(rank=2, dropout=0.1), prediction=ContinuousPrediction())
    shared(LoRA(rank=2, dropout=0.1, networks=["auxiliary"]), prediction=DiscretePrediction(4))


def test_a_networks_own_dropout_is_refused_too():
    net = torch.nn.Sequential(mlp(), torch.nn.Dropout(0.1))
    with pytest.raises(ValueError, match=r"dropout in backbone\.1"):
        module(mixture(), network=net)


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match="leave network out"):
        module(learned_teacher(), lora=SHARED)
    with pytest.raises(ValueError, match="these settings do not train"):
        shared(LoRA(networks=["auxiliary"]), correction_fraction=0.0)
    with pytest.raises(ValueError, match=r"has no network .* override backbone\(\)"):
        module(VelocityTeacher(lambda x, t, c: -x, (2,), 2), network=None, lora=SHARED)


def test_switched_on_in_yaml_it_trains_resumes_and_samples(freeflow):
    """freeflow fit, --ckpt_path last, sample: the checkpoint carries what rebuilds the adapters."""
    config = {
        "model": {
            "teacher": {"class_path": "SiTTeacher", "init_args": {"checkpoint": "embedded:digits"}},
            "lora": {"rank": 2, "target_modules": ["qkv", "proj"]},
        },
        "data": {"batch_size": 4, "length": 2},
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "StudentEMA"}],
        },
    }
    Path("shared.yaml").write_text(yaml.safe_dump(config))
    code, _, err = freeflow("fit", "--config", "shared.yaml")
    assert code == 0, err
    code, _, err = freeflow(
        "fit", "--config", "shared.yaml", "--ckpt_path", "last", "--trainer.max_steps", "3"
    )
    assert code == 0, err
    checkpoint = max(
        Path("runs/shared/version_0/checkpoints").glob("*.ckpt"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    assert checkpoint.stat().st_size < 2e6  # the teacher has 0.7M parameters, 2.8 MB
    code, _, err = freeflow(
        "sample", "--checkpoint", checkpoint, "--num_samples", "4", "--device", "cpu"
    )
    assert code == 0, err
    assert Path("samples/grid.png").is_file()
