"""notebooks/tools/search_curve.py draws its curves from any student of the digits."""

import json
import runpy
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "notebooks" / "tools" / "search_curve.py"


@pytest.mark.slow
def test_the_curve_counts_and_compares(freeflow, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    options = {
        "--model": "FreeFlowModule",
        "--model.teacher": "SiTTeacher",
        "--model.teacher.checkpoint": "embedded:digits",
        "--model.guidance_range": "[1.0, 1.0]",
        "--model.evaluation_guidance": "1.0",
        "--data": "PriorDataModule",
        "--data.batch_size": 4,
        "--trainer.accelerator": "cpu",
        "--trainer.max_steps": 1,
        "--trainer.enable_progress_bar": "false",
    }
    assert freeflow("fit", *(f"{name}={value}" for name, value in options.items()))[0] == 0
    (path,) = tmp_path.glob("runs/default/version_0/checkpoints/*.ckpt")
    monkeypatch.setattr(
        sys, "argv", [str(TOOL), "out", f"new={path}", "samples=100", "candidates=4", "steps=2"]
    )
    runpy.run_path(str(TOOL), run_name="__main__")
    curves = json.loads((tmp_path / "out/search_curve.json").read_text())["curves"]
    assert (tmp_path / "out/search.png").stat().st_size > 5000
    plain, searched = curves["teacher"], curves["new, oracle"]
    assert [point[0] for point in searched] == [1 + 4, 2 + 4, 4 + 4]
    assert [point[0] for point in curves["new, oracle, student's own"]] == [1, 2, 4]
    assert plain[0][1] > plain[-1][1]  # more steps of the teacher are better
    alone = [point[1] for point in curves["new, oracle, student's own"]]
    assert alone[-1] < alone[0]  # what the oracle sees gets better
