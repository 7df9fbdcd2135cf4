"""Plain lines where there is no terminal: one for each logged step, with what is left to do."""

import re

import pytest

from freeflow_lightning.callbacks import ProgressLines
from tiny import fit, module


def lines_of(capsys, **settings):
    fit(module(), ProgressLines(), **settings)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


def test_each_logged_step_and_the_last_have_a_line(capsys):
    lines = lines_of(capsys, max_steps=5, log_every_n_steps=2)
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    figures = r"pred [\d.e+-]+  corr [\d.e+-]+  aux [\d.e+-]+  .*\d:\d\d:\d\d left"
    assert all(re.search(figures, line) for line in lines), lines
    assert lines[-1].endswith("0:00:00 left")


def test_an_accumulated_batch_is_one_step(capsys):
    lines = lines_of(capsys, max_steps=2, log_every_n_steps=1, accumulate_grad_batches=2)
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]


@pytest.mark.parametrize(("has_terminal", "count"), [(False, 2), (True, 0)])
def test_fit_prints_lines_without_a_terminal_alone(freeflow, monkeypatch, has_terminal, count):
    import sys

    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: has_terminal, raising=False)
    options = ["--config", "gaussian_mixture", "--trainer.max_steps", 2, "--data.length", 2]
    options += ["--data.val_samples", 0, "--trainer.log_every_n_steps", 1]
    code, out, err = freeflow("fit", *options, "--trainer.accelerator", "cpu")
    assert code == 0, err
    assert len(re.findall(r"^step \d/2  ", out, re.MULTILINE)) == count
