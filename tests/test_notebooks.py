"""Every notebook is committed with its pictures, and runs in a short form: the same cells, few steps."""

import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_are_the_notebooks_that_the_readme_names():
    named = {"few_steps", "method_explained", "own_teacher", "quickstart"}
    assert {path.stem for path in NOTEBOOKS} == named


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_whole_with_its_pictures_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    assert pictures(notebook) >= 1
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [output.text for output in outputs(notebook) if output.get("name") == "stderr"] == []
    assert path.stat().st_size < 600 * 1024


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all: what they import is imported once."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"FREEFLOW_SHORT": "1"})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, kernel, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    shown = pictures(notebook)
    fresh = nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}")
    notebook.cells.insert(0, fresh)
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    assert pictures(notebook) == shown
    assert [output.text for output in outputs(notebook) if output.get("name") == "stderr"] == []
    assert list(Path(tmp_path).iterdir()) == []  # no logs, no checkpoints
