"""Every published config trains: two steps, shrunk by overrides. And distillation opens no data."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

import freeflow_lightning
from freeflow_lightning.run_folder import read_metrics

CONFIGS = sorted(path for path in (Path(__file__).parents[1] / "configs").glob("*.yaml") if not path.stem.endswith("_lora"))
"""Without those of text-to-image models, which tests/teachers/test_diffusers_runs.py runs on tiny pipelines."""
SHRUNK = {"reference_samples": 8, "count": 4, "points": 2, "steps": 2, "delay_steps": 1, "warmup_steps": 1}
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
    validates = "val_samples" in content["data"]["init_args"]
    return [
        *("--trainer.callbacks", json.dumps(content["trainer"]["callbacks"])),
        *("--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--data.batch_size", "8", "--data.length", "2"),
        *(("--data.val_samples", "8", "--data.val_batch_size", "4") if validates else ()),
    ]


def run_of(name: str) -> Path:
    return max(Path("runs", name).iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_two_steps_and_its_saved_config_starts_it_again(config, freeflow):
    code, _, err = freeflow("fit", "--config", config, *shrink(config))
    assert code == 0, err
    run = run_of(config.stem)
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = read_metrics(run / "metrics.csv")
    assert {row["step"] for row in rows} == {0, 1}
    assert list((run / "checkpoints").glob("last*.ckpt"))
    if "SampleGrid" in config.read_text():
        assert [path.name for path in sorted((run / "samples").iterdir())] == ["step_0000000.png", "step_0000002.png"]

    code, _, err = freeflow("fit", "--config", run / "config.yaml")
    assert code == 0, err
    again = read_metrics(run_of("config") / "metrics.csv")

    def figures(found):
        return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in found]

    assert figures(again) == figures(rows)


@pytest.mark.parametrize("config", CONFIGS[-1:], ids=lambda path: path.stem)
def test_a_printed_config_starts_the_same_run(config, freeflow):
    code, out, err = freeflow("fit", "--config", config, *shrink(config), "--print_config")
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
from freeflow_lightning.cli import main

main()
assert sys.modules["sklearn"] is None
print("\\n".join(["OPENED", *sorted(opened)]))
"""
DATA = {".csv", ".gz", ".npz", ".npy", ".pkl", ".pickle", ".pt", ".arff", ".parquet", ".h5", ".png", ".jpg", ".safetensors"}


@pytest.mark.slow
def test_distilling_the_digits_opens_no_data(tmp_path):
    """Not even scikit-learn, which carries the digits, is there; every file that is read is code, weights or the run's own."""
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
    libraries, system = (sys.prefix, sys.base_prefix), ("/proc/", "/sys/", "/dev/", "/etc/", tempfile.gettempdir())

    def allowed(path):
        """A file of the run itself, the config, the two weight files, code, or what the libraries ship beside their code."""
        if not path.is_absolute() or str(path).startswith(system) or path in {config, *weights}:
            return True
        shipped = str(path).startswith(libraries) and path.suffix not in DATA
        return shipped or path.suffix in {".py", ".pyc"} or "matplotlib" in path.parts  # its font list

    assert [path for path in opened if not allowed(path)] == []
    assert not [path for path in opened if "sklearn" in str(path)]
