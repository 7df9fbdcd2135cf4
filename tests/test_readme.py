"""The README's examples run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_own_teacher_example_runs_and_learns_the_ring(tmp_path):
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "class Ring" in block
    )
    (tmp_path / "my_teacher.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "my_teacher.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    radius = float(re.search(r"mean radius ([\d.]+)", run.stdout)[1])
    assert abs(radius - 1) < 0.1


def test_readme_names_every_config_and_no_missing_file():
    root = Path(__file__).parents[1]
    assert {path.name for path in (root / "configs").glob("*.yaml")} <= set(
        re.findall(r"configs/(\w+\.yaml)", README)
    )
    pictures = re.findall(r"!\[.*?\]\((?!http)(.+?)\)", README)
    assert pictures
    assert all((root / picture).is_file() for picture in pictures)
