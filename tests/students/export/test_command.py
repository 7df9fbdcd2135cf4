"""freeflow export as a user runs it."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from freeflow_lightning import FlowMap
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.students.official_convention import OfficialConvention
from students.export.test_hub import PretendedHub


def run(freeflow, *arguments):
    code, out, err = freeflow(*arguments)
    assert code == 0, err
    return out


def refused(freeflow, *arguments):
    code, _, err = freeflow(*arguments)
    assert code != 0
    return err


@pytest.mark.parametrize("average", [None, "raw"])
def test_a_run_becomes_a_folder_with_the_same_samples(freeflow, checkpoint, average):
    chosen = [] if average is None else ["--average", average]
    for source in (checkpoint, checkpoint.parent.parent, checkpoint.parent.parent.parent):
        out = run(
            freeflow,
            "export",
            "--checkpoint",
            source,
            "--output",
            "out",
            "--overwrite",
            "--device",
            "cpu",
            *chosen,
        )
        assert "the licence is unknown" in out
    student = FlowMap.from_checkpoint(checkpoint, average=average)
    again = FlowMap.from_pretrained("out")
    assert torch.equal(again.sample(5), student.sample(5))
    assert again.about["average"] == (average or "ema_0_9999")
    other = FlowMap.from_checkpoint(checkpoint, average="raw" if average is None else None)
    assert weights_hash(other.network) != weights_hash(again.network)
    assert Image.open("out/samples.png").size[0] >= 512
    card = Path("out/README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "unknown"
    assert "guidance_interval" in card
    manifest = json.loads(Path("out/freeflow.json").read_text())
    assert manifest["sample_shape"] == [3, 4, 4]
    assert manifest["conditions"] == {"kind": "classes", "num_classes": 5}
    assert manifest["guidance_range"] == [1.0, 2.0]
    assert manifest["files"].keys() == {"flow_map.safetensors", "samples.png"}


def test_sample_reads_the_folder_and_evaluate_too(freeflow, checkpoint):
    run(freeflow, "export", "--checkpoint", checkpoint, "--output", "out")
    for source, folder in (("out", "a"), (checkpoint, "b")):
        run(
            freeflow,
            "sample",
            "--checkpoint",
            source,
            "--num_samples",
            6,
            "--npz",
            "--output",
            folder,
            "--device",
            "cpu",
        )
    assert Path("a/samples.npz").read_bytes() == Path("b/samples.npz").read_bytes()
    arguments = ("--num_samples", 32, "--features", "flat", "--device", "cpu")
    run(
        freeflow,
        "evaluate",
        "--checkpoint",
        "out",
        "--reference",
        "a/samples.npz",
        *arguments,
        "--output",
        "ea",
    )
    run(
        freeflow,
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--reference",
        "a/samples.npz",
        *arguments,
        "--output",
        "eb",
    )
    a, b = (json.loads(Path(f"{folder}/evaluation.json").read_text()) for folder in ("ea", "eb"))
    assert a["scores"]["fid"] == b["scores"]["fid"]
    assert a["about"]["weights"] == b["about"]["weights"]
    assert "holds no teacher" in refused(freeflow, "evaluate", "--checkpoint", "out")
    assert "leave --average" in refused(
        freeflow, "sample", "--checkpoint", "out", "--average", "raw"
    )
    assert "does not name os.system: leave" in refused(
        freeflow, "sample", "--checkpoint", checkpoint, "--trust", "os.system"
    )
    assert "is no exported student: leave" in refused(
        freeflow, "sample", "--checkpoint", checkpoint, "--prompts", "folder"
    )
    Path("out/flow_map.safetensors").unlink()
    assert "flow_map.safetensors is missing in out" in refused(
        freeflow, "sample", "--checkpoint", "out"
    )
    assert "no checkpoint at out/none" in refused(freeflow, "sample", "--checkpoint", "out/none")


def test_averages_are_compared_before_one_is_chosen(freeflow, checkpoint):
    out = run(
        freeflow,
        "export",
        "--checkpoint",
        checkpoint,
        "--compare",
        "--num_samples",
        40,
        "--device",
        "cpu",
    )
    lines = [line for line in out.splitlines() if "│" in line]
    assert [line.split()[1] for line in lines] == ["ema_0_9999", "raw"]
    assert out.count("(lowest)") == 1
    assert not Path("out").exists()


def test_figures_are_those_of_these_weights(freeflow, checkpoint):
    run(
        freeflow,
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--num_samples",
        32,
        "--reference_samples",
        32,
        "--features",
        "flat",
    )
    run(freeflow, "export", "--checkpoint", checkpoint, "--output", "out")
    fid = json.loads(Path("evaluation/evaluation.json").read_text())["scores"]["fid"]["value"]
    card = Path("out/README.md").read_text()
    assert f"| FID | {fid:.4g} |" in card
    front = yaml.safe_load(card.split("---\n")[1])
    (results,) = front["model-index"][0]["results"]
    assert {"type": "fid", "name": "FID", "value": fid} in results["metrics"]
    assert "arxiv:2511.19428" in front["tags"]
    assert "base_model" not in front  # a file of this machine
    out = run(freeflow, "export", "--checkpoint", checkpoint, "--output", "raw", "--average", "raw")
    assert "measured other weights than these: left out of the card" in out
    assert "| FID |" not in Path("raw/README.md").read_text()
    given = ("--evaluation", "evaluation/evaluation.json")
    assert "measured other weights" in refused(
        freeflow, "export", "--checkpoint", checkpoint, "--output", "x", "--average", "raw", *given
    )
    assert "no evaluation at none" in refused(
        freeflow, "export", "--checkpoint", checkpoint, "--output", "x", "--evaluation", "none"
    )


def test_the_runs_report_serves_where_nothing_was_evaluated(freeflow, checkpoint, tmp_path):
    home = shutil.copytree(checkpoint.parents[2], tmp_path / "run")
    table = "| sampler | FID |\n| --- | ---: |\n| student, 1 step | 2.5 |"
    (home / "version_0" / "report.md").write_text(
        f"# run\n\nA word.\n\n1797 samples.\n\n{table}\n\nThe end.\n"
    )
    run(freeflow, "export", "--checkpoint", home, "--output", "out")
    assert f"## Figures\n\n1797 samples.\n\n{table}\n\n## Use" in Path("out/README.md").read_text()


def test_a_failure_leaves_nothing_behind(freeflow, checkpoint):
    assert "--decode: this student's samples are not latents" in refused(
        freeflow, "export", "--checkpoint", checkpoint, "--output", "out", "--pt2", "--decode"
    )
    assert "--output is missing" in refused(freeflow, "export", "--checkpoint", checkpoint)
    assert not [path for path in Path().iterdir() if "out" in path.name]
    Path("out").mkdir()
    Path("out/thesis.txt").touch()
    assert "out is there already and is no exported student" in refused(
        freeflow, "export", "--checkpoint", checkpoint, "--output", "out"
    )


@pytest.mark.slow
def test_everything_at_once(freeflow, checkpoint, told_parts):
    told = told_parts("commands.tasks.export")
    words = ("--pipeline", "--onnx", "--pt2", "--license", "mit")
    out = run(freeflow, "export", "--checkpoint", checkpoint, "--output", "out", *words)
    graphs = ["flow_map.onnx", "flow_map.pt2"]
    assert told == [6, "weights", "pipeline", *graphs, "picture", "reading it again"]
    assert "flow_map.onnx: largest difference" in out
    assert "0 of 192 pixels differ" in out
    names = json.loads(Path("out/freeflow.json").read_text())["files"]
    assert {
        "flow_map.onnx",
        "flow_map.pt2",
        "model_index.json",
        "network/diffusion_pytorch_model.safetensors",
    } <= names.keys()
    assert torch.equal(
        FlowMap.from_pretrained("out").sample(5), FlowMap.from_checkpoint(checkpoint).sample(5)
    )
    for name in ("flow_map.onnx", "flow_map.pt2"):
        _, _, after = Path("out/README.md").read_text().partition(f"`{name}`: z [B, ...], gamma")
        made = {}
        with contextlib.chdir("out"):
            exec(after.split("```python\n")[1].split("```")[0], made)  # the card's own example
        assert tuple(made["x"].shape) == (4, 3, 4, 4)
    run(
        freeflow, "export", "--checkpoint", "out", "--output", "again", "--pipeline"
    )  # from folder to folder
    assert torch.equal(
        FlowMap.from_pretrained("again").sample(5), FlowMap.from_checkpoint(checkpoint).sample(5)
    )


def test_a_folder_is_pushed_after_it_was_checked(freeflow, checkpoint, monkeypatch):
    hub = PretendedHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: hub)
    words = ("--output", "out", "--push", "me/student", "--private", "--license", "mit")
    out = run(freeflow, "export", "--checkpoint", checkpoint, *words)
    assert "uploaded: https://hub/me/student/commit/1" in out
    assert hub.repositories == {"me/student": True}
    assert hub.files["me/student"] == {
        path.name: path.read_bytes() for path in Path("out").iterdir()
    }
    assert "from_pretrained('me/student')" in Path("out/README.md").read_text()
    hub.error = ConnectionError("no route")
    assert "the hub cannot be reached (ConnectionError: no route). The folder is again" in refused(
        freeflow, "export", "--checkpoint", checkpoint, "--output", "again", "--push", "me/student"
    )
    assert torch.equal(
        FlowMap.from_pretrained("again").sample(2), FlowMap.from_checkpoint(checkpoint).sample(2)
    )


def test_official_weights_are_exported_with_their_vae(freeflow, published_width):
    path, vae = published_width
    read = ("--official.prior_time", 1, "--official.sign", -1, "--vae", vae)
    out = run(
        freeflow,
        "export",
        "--checkpoint",
        path,
        "--output",
        "out",
        "--pipeline",
        "--device",
        "cpu",
        *read,
    )
    assert "vae/diffusion_pytorch_model.safetensors" in out
    student = FlowMap.from_official(path, OfficialConvention(1, -1), vae=str(vae))
    x = student.sample(2, torch.tensor([207, 3]), 1.7)
    picture = student.teacher.decode(x)
    shutil.rmtree(vae)
    path.unlink()
    again = FlowMap.from_pretrained("out")
    assert torch.equal(again.sample(2, torch.tensor([207, 3]), 1.7), x)
    assert torch.equal(again.teacher.decode(x), picture)
    assert again.about["average"] == "official weights"
    assert "leave --average, --ema_length, --image_size, --vae and --official out" in refused(
        freeflow, "sample", "--checkpoint", "out", "--vae", "some/vae"
    )
