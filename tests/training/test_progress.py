"""Plain lines where there is no terminal: one for each logged step, with what is left to do."""

import re

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from freeflow_lightning import PriorDataModule
from freeflow_lightning.callbacks import DistillationProgress, NetworkSummary, ProgressLines
from freeflow_lightning.training import progress
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


PLAIN = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}


def test_a_plain_trainer_counts_steps_and_says_nothing_that_does_not_apply(capsys, said, recwarn):
    trainer = Trainer(max_steps=3, log_every_n_steps=2, **PLAIN)
    trainer.fit(module(), PriorDataModule(batch_size=4, length=2))
    out = capsys.readouterr().out
    assert re.findall(r"^step (\S+)", out, re.MULTILINE) == ["2/3", "3/3"]
    assert "Epoch" not in out
    assert "frozen, not saved" in out  # the summary counts the teacher apart
    assert not [line for line in said() if "Tip" in line or "override existing" in line]
    assert not [str(warning.message) for warning in recwarn]
    kinds = {type(callback) for callback in trainer.callbacks}
    assert {ProgressLines, NetworkSummary} < kinds


def test_a_bar_that_the_user_chose_stays():
    class Chosen(TQDMProgressBar):
        pass

    trainer = Trainer(callbacks=[Chosen()], **PLAIN)
    assert [type(added) for added in progress.replace_defaults(trainer)] == [NetworkSummary]
    assert trainer.progress_bar_callback is not None
    assert progress.replace_defaults(trainer) == []


def test_the_bar_fits_a_terminal_of_80_columns(monkeypatch):
    shown = {"pred": "3.47e-05", "corr": "2.29e+04", "aux": "2.38e-12", "FID": "1.91e+03"}
    monkeypatch.setattr(progress, "read_figures", lambda trainer, module: shown)
    trainer = Trainer(callbacks=[DistillationProgress()], max_steps=1_500_000, **PLAIN)
    bar = trainer.progress_bar_callback
    assert isinstance(bar, RichProgressBar)
    bar._trainer = trainer
    bar._console = console = Console(width=80, force_terminal=True, record=True)
    figures = bar.get_metrics(trainer, module())
    words = " ".join(f"{name}: {value}" for name, value in figures.items())
    assert list(figures) == ["pred", "corr", "aux"]
    with Progress(
        *bar.configure_columns(trainer), "{task.fields[words]}", console=console
    ) as drawn:
        drawn.add_task("fit", total=1_500_000, completed=999_999, words=words)
    lines = console.export_text().splitlines()
    assert all(words in line for line in lines if "fit" in line)


def test_fit_alone_draws_from_the_prior_as_the_default_data_module_does():
    ends = []
    for data in ([], [PriorDataModule()]):
        m = module()
        m.student_lr = 1e-2
        trainer = Trainer(
            max_steps=1, enable_progress_bar=False, enable_model_summary=False, **PLAIN
        )
        trainer.fit(m, *data)
        ends.append(next(m.student.parameters()).detach().clone())
    assert ends[0].equal(ends[1])


def test_data_is_refused_in_words():
    trainer = Trainer(max_steps=1, enable_progress_bar=False, enable_model_summary=False, **PLAIN)
    with pytest.raises(
        ValueError, match="expected no data, got a DataLoader: a distillation draws from the prior"
    ):
        trainer.fit(module(), DataLoader([1, 2]))
