"""notebooks/tools/gpu_check runs unattended: here three of its stages on a CPU, with tiny networks."""

import json
import runpy
import sys
import time
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "notebooks" / "tools" / "gpu_check"


@pytest.mark.slow
def test_stages_run_on_a_cpu_and_the_tables_come_from_their_files(tmp_path, monkeypatch):
    def check(*words):
        monkeypatch.setattr(sys, "argv", [str(TOOL), "--output", str(tmp_path), *words])
        monkeypatch.setattr(sys, "path", [str(TOOL), *sys.path])
        return runpy.run_path(str(TOOL / "__main__.py"), run_name="__main__")

    check("--tiny", "--device", "cpu", "--stages", "a,d,g")
    stages = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("?.json")}
    assert sorted(stages) == ["a", "d", "g"]
    failed = [
        (label, figures["error"])
        for found in stages.values()
        for label, figures in found["cases"].items()
        if "error" in figures
    ]
    assert not failed
    assert stages["a"]["cases"]["20 steps, resumed bit for bit"]["tensors_equal"] > 50
    said = (tmp_path / "tables.md").read_text()
    for words in ("discrete, implicit midpoint", "noise v2", "## A training step\n\nNot measured."):
        assert words in said
    (tmp_path / "d.json").unlink()
    tool = check("--render", str(tmp_path / "again.md"))
    assert "implicit midpoint" not in (tmp_path / "again.md").read_text()
    with pytest.raises(RuntimeError, match="cut after"), tool["limited"](0.05):
        time.sleep(5)
