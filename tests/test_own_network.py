"""Networks of one's own: conditions of any shape, a network without a time vector, and the documented example."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import forks
from freeflow_lightning import FlowMap, FreeFlowModule
from freeflow_lightning.callbacks import HealthMonitor, SampleGrid, StudentEMA, TrajectoryError
from freeflow_lightning.flow import take
from freeflow_lightning.nets import LoRA
from freeflow_lightning.objectives import DiscretePrediction
from freeflow_lightning.teachers import VelocityTeacher
from tiny import data, drawn_together, fit, same, shaken, trainer, weights
from trees import SHAPE, TextTeacher

LORAS = {
    "full": None,
    "LoRA": LoRA(rank=2),
    "auxiliary as LoRA": LoRA(rank=2, networks=["auxiliary"]),
}


def module(lora=None, **changes):
    torch.manual_seed(0)
    settings = {
        "prediction": DiscretePrediction(4),
        "student_lr": 1e-2,
        "auxiliary_lr": 1e-2,
        "lora": lora,
    } | changes
    made = FreeFlowModule(TextTeacher(), **settings)
    for seed, network in enumerate(made.networks().values()):
        shaken(network, seed, 0.1)
    made.alpha = 0.3
    return made


# Conditions that are trees


@pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)
def test_trees_of_conditions_pass_through_training_validation_and_checkpoints(tmp_path, lora):
    m, prior = module(lora), data(val_samples=6, val_batch_size=4)
    seen = [
        StudentEMA([0.5]),
        TrajectoryError(4, 2, 4),
        HealthMonitor(count=4, steps=2),
        SampleGrid(4),
    ]
    keep = ModelCheckpoint(tmp_path, filename="last")
    fit(
        m,
        *seen,
        keep,
        prior=prior,
        enable_checkpointing=True,
        max_steps=3,
        default_root_dir=tmp_path,
    )
    resumed = module(lora)
    fit(resumed, StudentEMA([0.5]), ckpt_path=tmp_path / "last.ckpt", max_steps=5)
    straight = module(lora)
    fit(straight, StudentEMA([0.5]), max_steps=5)
    assert same(weights(resumed), weights(straight))

    flow_map = FlowMap.from_checkpoint(tmp_path / "last.ckpt", teacher=TextTeacher())
    x = flow_map.sample(5, batch_size=2)
    assert x.shape == (5, *SHAPE)
    torch.testing.assert_close(flow_map.sample(2, first=3), x[3:])
    _, condition = flow_map.teacher.draw_indexed(torch.arange(5), seed=0, stream="samples")
    torch.testing.assert_close(flow_map.sample(5, condition), x)


def test_guidance_meets_the_null_tree_row_by_row():
    teacher = TextTeacher()
    g = torch.Generator().manual_seed(0)
    x, t, condition = (
        torch.randn(4, *SHAPE, generator=g),
        torch.rand(4, generator=g),
        teacher.draw_condition(4, g),
    )
    u, null = teacher(x, t, condition), teacher(x, t, teacher.null_condition(condition))
    torch.testing.assert_close(
        teacher.guided_velocity(condition, gamma=torch.full((4,), 2.0))(x, t),
        2 * u - null,
        atol=1e-5,
        rtol=1e-4,
    )
    row = slice(2, 3)
    torch.testing.assert_close(
        teacher(x[row], t[row], take(condition, row)), u[row], atol=1e-5, rtol=1e-4
    )


def train(name: str) -> None:
    m = module(LORAS[name])
    run = trainer(devices=2, strategy="ddp", max_steps=2, callbacks=[StudentEMA([0.5])])
    run.fit(m, data(batch_size=4, length=2, val_samples=5, val_batch_size=2))
    torch.save(m.state_dict(), f"out{run.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_of_adapters_are_one_with_the_doubled_batch():
    """Whole networks: recipes/test_distributed.py."""
    name = "LoRA"
    forks.run_together(2, train, name)
    first, second = (torch.load(f"out{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)

    m = module(LORAS[name])
    m.alpha = m.alpha_ref
    optimizer = m.configure_optimizers()
    for step in range(2):
        optimizer.zero_grad()
        m.loss(drawn_together(m, 4, step)).loss.backward()
        optimizer.step()
    start = module(LORAS[name]).state_dict()
    for key, value in m.state_dict().items():
        moved = (value - start[key]).abs().max()
        assert (first[key] - value).abs().max() <= 2e-2 * moved + 1e-5, key


# A network that takes its time otherwise than as a vector


class TimeAsChannel(nn.Module):
    """A network without a time vector: the time is a further channel of its input."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, x, t, condition=None):
        return self.body(torch.cat([x, t.view(-1, 1, 1, 1).expand_as(x[:, :1])], dim=1))


class WithVector(nn.Module):
    """The user's wrapper: a vector for delta and gamma, and a projection, 0 at first, that adds it to the state."""

    def __init__(self, net, width=16, channels=3):
        super().__init__()
        self.net = net
        self.time_embedding = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.project = nn.Linear(width, channels)
        nn.init.zeros_(self.project.weight), nn.init.zeros_(self.project.bias)

    def forward(self, x, t, condition=None):
        return self.net(
            x + self.project(self.time_embedding(t[:, None]))[..., None, None], t, condition
        )


def test_a_network_without_a_time_vector_lists_its_modules():
    with pytest.raises(
        ValueError,
        match=r"found 0: name it with time_module=\.\.\., for example one of \['body', 'body.0'",
    ):
        FreeFlowModule(
            VelocityTeacher(TimeAsChannel(), SHAPE), guidance_range=(1, 1), evaluation_guidance=1
        )


def test_a_network_without_a_time_vector_learns_delta_through_a_wrapper():
    torch.manual_seed(0)
    net = shaken(TimeAsChannel())
    m = FreeFlowModule(
        VelocityTeacher(net, SHAPE),
        WithVector(net),
        guidance_range=(1, 1),
        evaluation_guidance=1,
        student_lr=1e-2,
    )
    x, t = torch.randn(4, *SHAPE), torch.rand(4)
    ask = lambda delta: m.student(x, t, None, delta=delta, gamma=torch.ones(4))
    assert torch.equal(ask(t), m.teacher(x, t, None))
    fit(m, max_steps=4)
    assert (ask(torch.zeros(4)) - ask(torch.ones(4))).abs().max() > 1e-4
    assert torch.equal(m.teacher(x, t, None), shaken(TimeAsChannel())(x, t))
