"""Every test has a folder of its own to run in and to cache references in."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FREEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def freeflow(monkeypatch, capsys):
    """Run the command in this process: freeflow("fit", "--config", ...) -> (exit code, stdout, stderr)."""
    from freeflow_lightning import cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["freeflow", *map(str, arguments)])
        monkeypatch.setattr("sys.path", list(__import__("sys").path))
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run
