"""ff.evaluate, ff.search and ff.export return what their verbs write."""

import json

import pytest
import torch

import freeflow_lightning as ff

QUICK = {"num_samples": 40, "reference_samples": 50, "reference_steps": 2, "paired_samples": 16}


@pytest.fixture(scope="module")
def flow_map(checkpoint):
    return ff.FlowMap.from_checkpoint(checkpoint)


def test_an_evaluation_is_what_the_verb_writes(freeflow, checkpoint, flow_map, tmp_path):
    made = ff.evaluate(flow_map, **QUICK, features="flat")
    words = [f"--{name}={value}" for name, value in QUICK.items()]
    assert freeflow("evaluate", "--checkpoint", checkpoint, *words, "--features=flat")[0] == 0
    written = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    for name, score in made.scores.items():
        assert written["scores"][name]["value"] == pytest.approx(score.value, rel=1e-9), name
    assert made.floor.keys() == written["floor"].keys()
    page = made.save(tmp_path / "python")
    assert page.read_text() == made._repr_markdown_()
    fid = f"{made.scores['fid'].value:.4g}"
    assert f"| FID | {fid} |" in page.read_text()
    assert f">{fid}</td>" in made._repr_html_()
    assert fid in str(made)


def test_a_search_in_memory_is_the_one_in_a_folder(flow_map, tmp_path):
    def dark(samples, condition):
        return -samples.float().flatten(1).mean(1)

    settings = {"num_samples": 3, "candidates": 4, "teacher_steps": 2, "classes": [1]}
    made = ff.search(flow_map, dark, **settings)
    again = ff.search(flow_map, dark, **settings, output=tmp_path / "s", npz=True)
    assert made.folder is None
    assert again.folder == tmp_path / "s"
    assert made.scores == again.scores
    assert made.report["labels"] == [1, 1, 1]
    score = dark(made.samples["student"], None)
    assert score.tolist() == pytest.approx(made.scores["student"])
    assert made.scores["student"] >= made.scores["student_unsearched"]
    assert made.nfe["per sample"]["search"] == {"student": 4, "teacher": 0}
    assert "teacher, best noise" in str(made)
    assert made._repr_html_().count("<img") == 1


def test_an_export_says_what_it_holds(flow_map, tmp_path):
    made = ff.export(flow_map, tmp_path / "student", space=True)
    opened = ff.FlowMap.from_pretrained(made.folder)
    assert torch.equal(opened.sample(2, guidance=1.5), flow_map.sample(2, guidance=1.5))
    assert "flow_map.safetensors" in str(made)
    assert "the licence is unknown" in str(made)
    assert "<td" in made._repr_html_()
    assert made.url is None
    assert {"app.py", "requirements.txt"} < made.manifest["files"].keys()
    assert "sdk: gradio\napp_file: app.py\n" in (made.folder / "README.md").read_text()
    assert "freeflow-lightning[demo]==" in (made.folder / "requirements.txt").read_text()
    with pytest.raises(ValueError, match="holds an exported student already"):
        ff.export(flow_map, tmp_path / "student")
