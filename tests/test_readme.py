"""The README's example runs as it stands, and what it promises of itself is so."""

import re
import runpy
from pathlib import Path

import pytest

from pages import DOCS
from places import ROOT

README = ROOT / "README.md"


@pytest.mark.slow
def test_own_teacher_example_runs_and_learns_the_ring(capsys):
    text = README.read_text().partition("Save this as `my_teacher.py`:")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 25
    Path("my_teacher.py").write_text(code)
    runpy.run_path("my_teacher.py", run_name="__main__")
    radius = float(re.search(r"mean radius ([\d.]+)", capsys.readouterr().out)[1])
    assert abs(radius - 1) < 0.1


def test_readme_is_short_and_shows_a_picture():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    pictures = re.findall(r"!\[.*?\]\((?!http)(.+?)\)", text)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_page_of_configs_names_every_one():
    named = re.findall(r"configs/(\w+\.yaml)", (DOCS / "commands.md").read_text())
    assert {path.name for path in (ROOT / "configs").glob("*.yaml")} <= set(named)
