"""A third recipe, in one file: every callback and every verb takes it as it is."""

from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap, FreeFlowModule
from freeflow_lightning.sampling import training_plot
from recipes.third_recipe import PathModule

CONFIG = """
model:
  class_path: recipes.third_recipe.PathModule
  init_args:
    teacher:
      class_path: GaussianMixtureTeacher
      init_args: {means: [[2.0, 0.0], [-2.0, 0.5]], std: 0.4, labels: [0, 1]}
    network: {class_path: freeflow_lightning.nets.MLP, init_args: {sample_shape: [2], num_classes: 2}}
data: {class_path: PriorDataModule, init_args: {batch_size: 8, length: 4, val_samples: 16}}
trainer:
  accelerator: cpu
  max_steps: 8
  enable_progress_bar: false
  callbacks:
    - class_path: StudentEMA
    - class_path: TrajectoryError
    - class_path: HealthMonitor
    - class_path: SampleGrid
    - class_path: PeriodicFID
      init_args:
        metric:
          class_path: FrechetDistance
          init_args: {features: {class_path: FlatFeatures, init_args: {num_features: 2}}}
        reference_samples: 16
        steps: 2
"""
RUN = "runs/path"
VERBS = {
    "sample": f"--checkpoint {RUN} --num_samples 2",
    "evaluate": f"--checkpoint {RUN} --num_samples 8 --reference_samples 8 --reference_steps 2",
    "diagnose": f"--checkpoint {RUN} --num_samples 16 --fine_steps 4",
    "search": f"--checkpoint {RUN} --verifier TargetDistance --verifier.target [0.0,0.0] --candidates 2",
    "export": f"--checkpoint {RUN} --output exported",
    "report": f"{RUN} --num_samples 16",
    "inspect": "--config path.yaml --no_samples",
    "bench": "--config path.yaml --steps 1 --batch_size 8",
}


def fit(freeflow, *options):
    Path("path.yaml").write_text(CONFIG)
    code, _, error = freeflow("fit", "--config", "path.yaml", *options)
    assert code == 0, error


def test_a_third_recipe_trains_and_resumes_bit_for_bit(freeflow):
    fit(freeflow)
    fit(freeflow, "--trainer.max_steps", 5, "--trainer.default_root_dir", "cut")
    fit(freeflow, "--trainer.default_root_dir", "cut", "--ckpt_path", "last")
    whole, resumed = (
        PathModule.load_from_checkpoint(place + RUN).state_dict() for place in ("", "cut/")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    metrics = Path("runs/path/version_0/metrics.csv").read_text()
    assert all(name in metrics for name in ("fid/student", "error/endpoint", "health/spread"))


@pytest.mark.slow
def test_every_verb_takes_a_third_recipe(freeflow):
    fit(freeflow)
    for verb, words in VERBS.items():
        code, _, error = freeflow(verb, *words.split())
        assert code == 0, f"{verb}: {error}"


def test_a_student_says_what_it_was_trained_on_and_what_a_report_plots(freeflow):
    fit(freeflow, "--trainer.max_steps", 1)
    about = FlowMap.from_checkpoint(RUN).about
    assert about["pairs"] == "any to any"
    assert plotted({"map/residual": 1.0, "gradient/student": 2.0}, about["curves"]) == [
        "map/residual",
        "gradient/student",
    ]
    own = FreeFlowModule.curves
    assert plotted({"map/residual": 1.0, "correction/lambda": 2.0}, own) == ["correction/lambda"]


def plotted(figures, curves):
    """The names of the curves in the picture of one step's figures."""
    picture = training_plot.training([{"step": 0, **figures}], curves)
    return [line.get_label() for axis in picture.axes for line in axis.lines]
