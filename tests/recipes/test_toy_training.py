"""Every objective trains: on a mixture of Gaussians the error of its map halves within seconds."""

import pytest
import torch

from freeflow_lightning import FlowMapModule
from freeflow_lightning.flow import (
    FromPrior,
    Gap,
    Prior,
    Renoised,
    SortedPair,
    StudentPath,
    TeacherPath,
    ToData,
    Uniform,
    WithDiagonal,
    solve,
    training_generator,
)
from freeflow_lightning.nets import MLP
from freeflow_lightning.objectives import (
    Consistency,
    DiscreteEulerian,
    DiscreteLagrangian,
    Endpoint,
    Eulerian,
    Lagrangian,
    Semigroup,
    Unweighted,
)
from freeflow_lightning.teachers import GaussianMixtureTeacher

TEACHER = GaussianMixtureTeacher([[1.2, 0.0], [-1.2, 0.5], [0.0, 1.2]], 0.4)
STEPS = 150
ANY, PATH = SortedPair(Uniform()), TeacherPath(4, per_path=4)
TRAINED = {
    "Eulerian, student's path": (Eulerian(), WithDiagonal(ANY), StudentPath(), 0.0),
    "Eulerian, teacher's path": (Eulerian(), WithDiagonal(ANY), PATH, 0.0),
    "Eulerian to data": (Eulerian(), ToData(Uniform()), PATH, 0.0),
    "Lagrangian": (Lagrangian(), ANY, PATH, 0.0),
    "Lagrangian, full gradient": (Lagrangian(full_gradient=True), Gap(), StudentPath(), 0.125),
    "DiscreteLagrangian": (DiscreteLagrangian(8), ANY, StudentPath(), 0.0),
    "DiscreteEulerian": (DiscreteEulerian(), WithDiagonal(ANY), StudentPath(), 0.0),
    "Semigroup": (Semigroup(Uniform()), ANY, StudentPath(), 0.5),
    "Consistency": (Consistency(), ToData(Uniform()), Renoised(), 0.0),
    "Endpoint": (Endpoint(4, "rk4"), FromPrior(Uniform(1.0, 1.0)), Prior(), 0.0),
}


def error(m):
    """Root mean square of f(z, 1, 0) - the teacher's, for 512 draws."""
    z = torch.randn(512, 2, generator=torch.Generator().manual_seed(1))
    exact = solve(TEACHER.velocity, z, steps=32)
    return float((m.generate(z, None) - exact).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_the_error_of_the_map_halves(name):
    objective, times, states, anchor_fraction = TRAINED[name]
    torch.manual_seed(0)
    m = FlowMapModule(
        TEACHER,
        MLP((2,), hidden_size=48, depth=2),
        objective=objective,
        times=times,
        states=states,
        anchor_fraction=anchor_fraction,
        weight=Unweighted(),
        guidance_range=(1.0, 1.0),
        evaluation_guidance=1.0,
        student_lr=5e-3,
    )
    start, optimizer = error(m), m.configure_optimizers()
    for k in range(STEPS):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - k / STEPS)
        optimizer.zero_grad()
        m.loss(m.draw(128, training_generator(0, 0, k))).loss.backward()
        optimizer.step()
    assert error(m) < start / 2
