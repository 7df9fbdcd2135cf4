"""EDM and DDPM teachers from their config: freeflow fit, resume, sample; and the scales of Eqs. 11 and 12 in a step."""

from pathlib import Path

import pytest
import torch
import yaml

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.flow import interpolate, training_generator
from freeflow_lightning.objectives import decay
from freeflow_lightning.teachers import DDPMTeacher, EDMTeacher
from teachers.test_edm import SHAPE, UNet
from tiny import mlp, shaken


class LabelledUNet(UNet):
    """The same U-Net asked with labels, as DDPM's are: 0 .. 2, and 3 for none."""

    def forward(self, y, k, label):
        return super().forward(y, k / 1000, torch.eye(4, device=y.device)[label][:, :3])


NET = {"class_path": f"{UNet.__module__}.UNet"}
LABELLED = {"class_path": f"{__name__}.LabelledUNet"}
CONFIGS = {
    "EDM": ("EDMTeacher", {"network": NET, "data_scale": 2.0}),
    "EDM, autoguidance": (
        "EDMTeacher",
        {"network": NET, "guide": {**NET, "init_args": {"width": 4}}},
    ),
    "epsilon": ("DDPMTeacher", {"network": LABELLED, "t_max": 0.95}),
    "v": (
        "DDPMTeacher",
        {
            "network": LABELLED,
            "prediction": "v_prediction",
            "schedule": {
                "class_path": "Betas",
                "init_args": {"start": 0.00085, "end": 0.012, "power": 2},
            },
        },
    ),
    "cosine, x": (
        "DDPMTeacher",
        {"network": LABELLED, "prediction": "sample", "schedule": {"class_path": "CosineBetas"}},
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_from_a_config_it_trains_resumes_and_samples(name, freeflow):
    family, settings = CONFIGS[name]
    teacher = {
        "class_path": family,
        "init_args": {"sample_shape": list(SHAPE), "num_classes": 3, **settings},
    }
    torch.manual_seed(0)
    net = LabelledUNet() if family == "DDPMTeacher" else UNet()
    torch.save(net.state_dict(), "weights.pt")
    teacher["init_args"]["checkpoint"] = "weights.pt"
    config = {
        "model": {"teacher": teacher, "time_module": "net.emb_noise", "check_teacher": False},
        "data": {"batch_size": 4, "length": 1},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    Path("family.yaml").write_text(yaml.safe_dump(config))
    for extra in ([], ["--ckpt_path", "last", "--trainer.max_steps", "2"]):
        code, _, err = freeflow("fit", "--config", "family.yaml", *extra)
        assert code == 0, err
    checkpoint = max(Path("runs").rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    code, _, err = freeflow(
        "sample", "--checkpoint", checkpoint, "--num_samples", "2", "--device", "cpu"
    )
    assert code == 0, err
    assert Path("samples/000001.png").is_file()


def step(teacher, network=None, **changes):
    module = FreeFlowModule(teacher, network, **({"time_module": "net.emb_noise"} | changes))
    for seed, net in enumerate(module.networks().values()):
        shaken(net, seed)
    module.alpha = 0.3
    p, c = module.draw(16, training_generator(0, 0, 0))
    done = module.loss((p, c))
    done.loss.backward()
    return module, c, done


@pytest.mark.parametrize(
    "make",
    [
        lambda: EDMTeacher(UNet(), SHAPE, 3),
        lambda: DDPMTeacher(LabelledUNet(), SHAPE, num_classes=3),
        lambda: DDPMTeacher(LabelledUNet(), SHAPE, "v_prediction", num_classes=3),
    ],
)
def test_eq_11_is_on_one_scale_and_eq_12_in_the_networks_own_units(make):
    """lambda sees differences on one scale; the auxiliary's gradient is that of its raw output's squared error."""
    torch.manual_seed(0)
    teacher = make()
    module, c, done = step(teacher)
    weighted = done.residuals["correction"].error.flatten(1).norm(dim=1) / teacher.difference_scale(
        c.r
    )
    assert float(done.scalars["correction/lambda"]) == pytest.approx(
        float(
            0.3 * decay(done.residuals["prediction"], 1.0).norm().mean() / (weighted.mean() + 1e-6)
        )
    )

    found = [p.grad.clone() for p in module.auxiliary.parameters()]
    module.auxiliary.zero_grad()
    x_r = interpolate(
        (done.residuals["auxiliary"].output - done.residuals["auxiliary"].error).detach() + c.n,
        c.n,
        c.r,
    )
    error = (
        module.auxiliary(x_r, c.r, c.condition, gamma=c.gamma)
        - (done.residuals["auxiliary"].output - done.residuals["auxiliary"].error).detach()
    )
    raw = error / teacher.output_scale(c.r).view(-1, 1, 1, 1)
    (raw.square().flatten(1).sum(1).mean() / 2).backward()
    for p, gradient in zip(module.auxiliary.parameters(), found, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_network_of_ones_own_has_no_scale():
    """It predicts u itself, whatever the teacher's network predicts."""
    teacher = DDPMTeacher(mlp(), (2,), num_classes=2)
    done = step(teacher, mlp(1), time_module=None)[2]
    error = done.residuals["correction"].error.flatten(1).norm(dim=1).mean()
    assert float(done.scalars["correction/lambda"]) == pytest.approx(
        float(0.3 * decay(done.residuals["prediction"], 1.0).norm().mean() / (error + 1e-6)),
        rel=1e-4,
    )
