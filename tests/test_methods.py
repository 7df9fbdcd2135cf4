"""Every config of configs/methods trains; what they share, in shared/*.yml, is none by itself."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml

from freeflow_lightning.flow import Pairs
from freeflow_lightning.training.run_loggers import read_metrics
from places import ROOT
from tiny import by_arguments_and_by_recipe

METHODS = ROOT / "configs" / "methods"
CONFIGS = sorted(METHODS.glob("*.yaml"))
SMALL = {
    "trainer.max_steps": 2,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
    "trainer.callbacks": "[]",
    "data.batch_size": 8,
    "data.length": 2,
    "data.val_samples": 0,
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_two_steps_as_it_is(config, freeflow):
    """With batches of 8 and without callbacks, which test_configs.py runs."""
    code, _, error = freeflow(
        "fit", "--config", config, *(f"--{key}={value}" for key, value in SMALL.items())
    )
    assert code == 0, error
    rows = read_metrics(Path("runs", config.stem, "version_0", "metrics.csv"))
    assert [row["step"] for row in rows] == [0, 1]
    moved = {"dmd2": False, "dmd2_four_steps": False}.get(
        config.stem, True
    )  # its turn is the fifth
    assert ("gradient/student" in rows[1] and rows[1]["gradient/student"] > 0) is moved
    wanted = {
        "freeflow": Pairs.PRIOR_TO_ANY,
        "freeflow_implicit_midpoint": Pairs.PRIOR_TO_ANY,
        "kd": Pairs.PRIOR_TO_ANY,
        "dmd2": Pairs.PRIOR_TO_DATA,
        "dmd2_four_steps": Pairs.ANY_TO_DATA,
        "cd": Pairs.ANY_TO_DATA,
        "scd": Pairs.ANY_TO_DATA,
    }
    student, again = by_arguments_and_by_recipe(f"runs/{config.stem}")
    assert student.pairs is wanted.get(config.stem, Pairs.ANY_TO_ANY)
    assert student.about == again.about
    assert student.guidance_range == again.guidance_range
    assert torch.equal(student.sample(4), again.sample(4))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_says_its_paper_and_its_command(config):
    comment = config.read_text().partition("seed_everything")[0]
    assert comment.startswith("# ")
    assert "rXiv 2" in comment
    assert f"# freeflow fit --config configs/methods/{config.name}\n" in comment


def test_the_trainers_differ_in_their_schedules_alone():
    """So that no method is measured in another way than its neighbours."""
    schedules = ("ConfidentRegionWarmup", "AlphaSchedule", "TangentWarmup")
    same = []
    for path in sorted((METHODS / "shared").glob("trainer*.yml")):
        content = yaml.safe_load(path.read_text())
        content["callbacks"] = [
            c for c in content["callbacks"] if not c["class_path"].endswith(schedules)
        ]
        same.append(content)
    assert len(same) == 4
    assert all(content == same[0] for content in same)


def test_the_tables_in_the_docs_are_what_was_measured():
    spec = importlib.util.spec_from_file_location(
        "methods_table", ROOT / "notebooks" / "tools" / "methods_table.py"
    )
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    measured = json.loads((ROOT / "docs" / "measured" / "methods_digits.json").read_text())
    assert {method["name"] for method in measured["methods"]} == {path.stem for path in CONFIGS}
    for page, table in (("docs/methods.md", tables.full_table), ("README.md", tables.short_table)):
        assert "\n".join(table(measured)) in (ROOT / page).read_text(), page
    on_faces = json.loads((ROOT / "docs" / "reproduce" / "methods.json").read_text())
    assert "\n".join(tables.claim_table(on_faces)) in (ROOT / "docs/methods.md").read_text()
