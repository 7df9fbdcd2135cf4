"""The folder that init writes runs at once: it is inspected, distilled, resumed and sampled from."""

import json
import re
import sys
from pathlib import Path

import pytest

from freeflow_lightning.examples.own_network import NETWORKS, files_of

SMALL = ["--trainer.accelerator", "cpu", "--data.batch_size", 8, "--data.length", 2]


@pytest.fixture
def written(freeflow, monkeypatch):
    """Write a folder, go into it, and forget its module afterwards: written(network) -> stem."""
    imported = []

    def write(network):
        code, out, err = freeflow("init", "mine", "--network", network)
        assert code == 0, err
        assert f"freeflow inspect --config {files_of(network)[1].name}" in out
        monkeypatch.chdir("mine")
        imported.append(files_of(network)[0].stem)
        return imported[-1]

    yield write
    for name in imported:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_written_is_sound_and_trains(freeflow, written, network):
    config = f"{written(network)}.yaml"
    code, out, err = freeflow("inspect", "--config", config, "--steps", 8, "--device", "cpu")
    assert code == 0, out + err
    assert "unclear" not in out
    code, _, err = freeflow("fit", "--config", config, *SMALL, "--trainer.max_steps", 2)
    assert code == 0, err
    run = Path("runs", Path(config).stem)
    assert list(run.glob("version_0/checkpoints/*.ckpt"))
    if network != "unet":
        return
    code, _, err = freeflow(
        "fit", "--config", config, *SMALL, "--trainer.max_steps", 3, "--ckpt_path", "last"
    )
    assert code == 0, err
    few = ["--data.val_samples", 8, "--data.val_batch_size", 8]
    code, out, err = freeflow("validate", "--config", config, *SMALL, *few, "--ckpt_path", "last")
    assert code == 0, err
    folder, measured = out.splitlines()[-2:]
    assert folder == f"the folder of this validation: {run / 'version_1'}"
    assert measured.startswith("no figure was measured")  # its config has no PeriodicFID
    assert (run / "version_1" / "metrics.csv").is_file()
    code, out, err = freeflow(
        "sample", "--checkpoint", run, "--num_samples", 3, "--classes", 3, "--device", "cpu"
    )
    assert code == 0, err
    assert out.startswith("3 samples at guidance 1 in")
    inner = '{"unet": {"class_path": "my_unet.UNet"}}'
    code, out, err = freeflow("export", run, "--output", "shipped", "--network_arguments", inner)
    assert code == 0, err
    shipped = json.loads(Path("shipped/freeflow.json").read_text())["network"]
    assert "my_unet.Velocity" in str(shipped)
    few = ["--num_samples", 3, "--device", "cpu", "--trust", "my_unet.Velocity"]
    assert freeflow("sample", "shipped", *few, "--output", "again")[0] == 0
    assert freeflow("sample", run, *few[:4], "--output", "before")[0] == 0
    for name in ("000000.png", "000002.png"):
        assert Path("again", name).read_bytes() == Path("before", name).read_bytes()


def test_the_unet_says_where_its_time_is_if_asked(freeflow, written):
    config = Path(f"{written('unet')}.yaml")
    Path("forgotten.yaml").write_text(re.sub(r"    time_module: .*\n", "", config.read_text()))
    code, _, err = freeflow("fit", "--config", "forgotten.yaml", *SMALL)
    assert code == 1
    assert "found 0: name it with time_module=..., for example one of ['unet', 'unet.clock'" in err


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_not_empty_is_refused(freeflow, there):
    place = Path("mine")
    if there == "folder":
        place.mkdir()
    (place / "notes.txt" if there == "folder" else place).write_text("mine")
    code, _, err = freeflow("init", "mine")
    assert code == 1
    assert "mine is there and not empty: give the name of a new folder" in err
    kept = place / "notes.txt" if there == "folder" else place
    assert kept.read_text() == "mine"


def test_an_empty_folder_is_filled(freeflow):
    Path("my net").mkdir()
    code, out, _ = freeflow("init", "my net")
    assert code == 0
    assert "  cd 'my net'\n" in out
    assert {path.name for path in Path("my net").iterdir()} == {
        file.name for file in files_of("unet")
    }
