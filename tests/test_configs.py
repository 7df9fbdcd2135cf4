"""Every published config trains: two steps, shrunk by overrides. And distillation opens no data."""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml

import freeflow_lightning
from examples.faces.test_data import write_faces
from freeflow_lightning.training.run_loggers import read_metrics
from teachers import public_sit

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[1] / "configs").glob("*.yaml")
    if not path.stem.endswith("_lora")
)
"""Without those of text-to-image models, which tests/teachers/test_diffusers_runs.py runs on tiny pipelines."""
SHRUNK = {
    "reference_samples": 8,
    "count": 4,
    "points": 2,
    "steps": 2,
    "delay_steps": 1,
    "warmup_steps": 1,
}
"""Arguments of callbacks, where they have them."""


def shrink(config: Path) -> list[str]:
    """The command line that makes a config small."""
    content = yaml.safe_load(config.read_text())
    for callback in content["trainer"]["callbacks"]:
        name = callback["class_path"].rsplit(".", 1)[1]
        arguments = callback.setdefault("init_args", {})
        has = {
            "ConfidentRegionWarmup": ["steps"],
            "AlphaSchedule": ["delay_steps", "warmup_steps"],
            "PeriodicFID": ["reference_samples", "steps"],
            "TrajectoryError": ["count", "points", "steps"],
            "SampleGrid": ["count", "steps"],
            "HealthMonitor": ["count", "steps"],
        }
        arguments.update({key: SHRUNK[key] for key in has.get(name, [])})
        if "every_n_train_steps" in arguments:
            arguments["every_n_train_steps"] = 1
    data = content["data"]["init_args"]
    validates = "val_samples" in data
    if "path" in data:
        write_faces(Path("faces.npz"), count=10_008)
    return [
        *(("--data.path", "faces.npz") if "path" in data else ()),
        *(tiny_teacher(content) if config.stem.startswith("sit_") else ()),
        *(
            "--trainer.callbacks",
            yaml.safe_dump(content["trainer"]["callbacks"], default_flow_style=True),
        ),
        *(
            "--trainer.max_steps",
            "2",
            "--trainer.log_every_n_steps",
            "1",
            "--trainer.accelerator",
            "cpu",
        ),
        *("--trainer.enable_progress_bar", "false", "--data.batch_size", "8", "--data.length", "2"),
        *(("--data.val_samples", "8", "--data.val_batch_size", "4") if validates else ()),
    ]


def tiny_teacher(content: dict) -> list[str]:
    """A tiny file in the layout of the config's checkpoint, one process, and no VAE, which is the hub's."""
    convention = content["model"]["init_args"]["teacher"]["init_args"]["convention"]
    at_256 = content["trainer"]["max_steps"] != 1_000_000
    state = public_sit.state_dict(learn_sigma=convention == "sit" and at_256)
    torch.save(state | (public_sit.projectors() if convention == "repa" else {}), "tiny.pt")
    changes = {
        "checkpoint": "tiny.pt",
        "num_heads": public_sit.HEADS,
        "repo_id": None,
        "filename": None,
        "vae": None,
    }
    one = [
        "--trainer.devices",
        "1",
        "--trainer.strategy",
        "auto",
        "--trainer.accumulate_grad_batches",
        "1",
    ]
    return ["--model.teacher", json.dumps(changes), *one]


def run_of(name: str) -> Path:
    return max(Path("runs", name).iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_it_trains_two_steps_and_its_saved_config_starts_it_again(config, freeflow):
    code, _, err = freeflow("fit", "--config", config.stem, *shrink(config))  # a built-in, by name
    assert code == 0, err
    run = run_of(config.stem)
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = read_metrics(run / "metrics.csv")
    assert {row["step"] for row in rows} == {0, 1}
    assert list((run / "checkpoints").glob("last*.ckpt"))
    if "SampleGrid" in config.read_text():
        assert [path.name for path in sorted((run / "samples").iterdir())] == [
            "step_0000000.png",
            "step_0000002.png",
        ]

    code, _, err = freeflow("fit", "--config", run / "config.yaml")
    assert code == 0, err
    again = read_metrics(run_of("config") / "metrics.csv")

    def figures(found):
        return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in found]

    assert figures(again) == figures(rows)


@pytest.mark.parametrize("config", CONFIGS[-1:], ids=lambda path: path.stem)
def test_a_printed_config_starts_the_same_run(config, freeflow):
    code, out, err = freeflow("fit", "--config", config.stem, *shrink(config), "--print_config")
    assert code == 0, err
    Path("printed.yaml").write_text(out)
    assert freeflow("fit", "--config", "printed.yaml")[0] == 0
    assert freeflow("fit", "--config", config, *shrink(config))[0] == 0
    printed, direct = ({row["step"]: row["gradient/student"] for row in read_metrics(run_of(name) / "metrics.csv")
                        if "gradient/student" in row} for name in ("printed", config.stem))  # fmt: skip
    assert printed == direct


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_says_what_it_is(config):
    assert config.read_text().startswith("# ")


WATCH = """
import sys

sys.modules["sklearn"] = None  # cannot be imported
opened = set()

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.add(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())

sys.addaudithook(watch)
from freeflow_lightning.commands.main import main

main()
assert sys.modules["sklearn"] is None
assert "diffusers" not in sys.modules
print("\\n".join(["OPENED", *sorted(opened)]))
"""
DATA = {
    ".csv",
    ".gz",
    ".npz",
    ".npy",
    ".pkl",
    ".pickle",
    ".pt",
    ".arff",
    ".parquet",
    ".h5",
    ".png",
    ".jpg",
    ".safetensors",
}


@pytest.mark.slow
def test_distilling_the_digits_opens_no_data(tmp_path):
    """Not even scikit-learn, which carries the digits, is there; every file that is read is code, weights or the run's own.

    And nothing heavy is imported that is not needed.
    """
    (config,) = [path for path in CONFIGS if path.stem == "digits"]
    environment = os.environ | {"FREEFLOW_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WATCH, "fit", "--config", str(config), *shrink(config)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    opened = [Path(line) for line in done.stdout.split("OPENED\n")[1].splitlines()]
    assert len(opened) > 100
    own = Path(freeflow_lightning.__file__).parent
    weights = {own / "assets" / f"digits_{name}.safetensors" for name in ("teacher", "classifier")}
    libraries, system = (
        (sys.prefix, sys.base_prefix),
        ("/proc/", "/sys/", "/dev/", "/etc/", tempfile.gettempdir()),
    )

    def allowed(path):
        """A file of the run itself, the config, the two weight files, code, or what the libraries ship beside their code."""
        if not path.is_absolute() or str(path).startswith(system) or path in {config, *weights}:
            return True
        shipped = str(path).startswith(libraries) and path.suffix not in DATA
        return (
            shipped or path.suffix in {".py", ".pyc"} or "matplotlib" in path.parts
        )  # its font list

    assert [path for path in opened if not allowed(path)] == []
    assert not [path for path in opened if "sklearn" in str(path)]


TABLE_6 = {  # column: guidance interval, delta's law, alpha_ref, T_decay, iterations
    "sit_xl2_256": ([0.0, 0.4], (0.0, 1.0), 0.3, math.inf, 1_500_000),
    "sit_xl2_512": ([0.0, 0.5], (0.0, 1.0), 0.3, math.inf, 1_000_000),
    "sit_xl2_repa_256": ([0.0, 0.3], (-0.4, 1.2), 0.6, 25_000, 1_500_000),
    "sit_xl2_repa_512": ([0.0, 0.3], (-0.4, 1.2), 0.6, 25_000, 1_000_000),
    "sit_b2_256": ([0.0, 0.7], (0.0, 1.0), 0.3, math.inf, 400_000),
}


@pytest.mark.parametrize("name", TABLE_6)
def test_the_papers_settings_are_its_table_6(name):
    interval, delta, alpha_ref, decay_steps, iterations = TABLE_6[name]
    content = yaml.safe_load((CONFIGS[0].parent / f"{name}.yaml").read_text())
    model, data, trainer = (
        content["model"]["init_args"],
        content["data"]["init_args"],
        content["trainer"],
    )
    callbacks = {
        c["class_path"].rsplit(".", 1)[1]: c.get("init_args", {}) for c in trainer["callbacks"]
    }
    assert model["guidance_interval"] == interval
    assert tuple(model["delta"]["init_args"]["base"]["init_args"].values()) == delta
    assert model["delta"]["init_args"]["probability"] == 0.1
    assert model["delta"]["init_args"]["at"] == 0.0
    assert model["prediction"]["init_args"] == {"steps": 8, "method": "heun"}
    assert model["r"]["init_args"] == {"mean": 0.8, "std": 1.6}
    assert (model["alpha_ref"], model["residual_decay"], model["correction_fraction"]) == (
        alpha_ref,
        1.0,
        0.25,
    )
    assert (model["student_lr"], model["auxiliary_lr"], model["betas"], model["eps"]) == (
        3e-5,
        1e-4,
        [0.9, 0.99],
        1e-8,
    )
    assert model["guidance_range"] == [1.0, 2.0]
    assert callbacks["ConfidentRegionWarmup"] == {"steps": 10_000}
    assert callbacks["AlphaSchedule"] == {
        "delay_steps": 10_000,
        "warmup_steps": 10_000,
        "decay_steps": decay_steps,
    }
    assert callbacks["StudentEMA"] == {"decays": [0.9999]}
    assert trainer["max_steps"] == iterations
    assert trainer["precision"] == "bf16-mixed"
    assert data["batch_size"] * trainer["devices"] * trainer["accumulate_grad_batches"] == 256
    assert data["length"] == 5000 * trainer["accumulate_grad_batches"]
