"""Every recipe that distils, around one tiny teacher of pictures [3, 4, 4] in five classes."""

from collections.abc import Callable

from freeflow_lightning import (
    DMDModule,
    FlowMapModule,
    FreeFlowModule,
    PosteriorModule,
    TransitionModule,
)
from freeflow_lightning.flow import PartOfPath, StudentPath, Uniform, WithAtom
from freeflow_lightning.objectives import DiscreteLagrangian
from freeflow_lightning.recipes import Distillation
from freeflow_lightning.recipes.correction import Correction
from freeflow_lightning.teachers import VelocityTeacher
from nets.random_weights import tiny_sit
from tiny import with_shaken_networks

ANY_STEP = {
    "objective": DiscreteLagrangian(4, "implicit_midpoint"),
    "states": StudentPath(),
    "times": PartOfPath(WithAtom(Uniform(0.05, 1.0), 0.5, 1.0), Uniform()),
    "correction": Correction(fraction=0.5),
}


def made(recipe, **settings) -> Callable[[], Distillation]:
    def build() -> Distillation:
        teacher = VelocityTeacher(tiny_sit(seed=1), (3, 4, 4), 5)
        return with_shaken_networks(recipe(teacher, check_teacher=False, **settings))

    return build


RECIPES: dict[str, Callable[[], Distillation]] = {
    "freeflow": made(FreeFlowModule),
    "any-step": made(FlowMapModule, **ANY_STEP),
    "dmd": made(DMDModule, times=[1.0, 0.5], auxiliary_updates=2),
    "posterior": made(PosteriorModule),
    "transition": made(TransitionModule, match_steps=2),
}
