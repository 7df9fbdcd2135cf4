"""A callback that watches a figure which the run does not log is named, with figures that it does."""

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tiny import data, fit, module

FIGURE = "prediction/residual"


def keeper(monitor, **settings):
    return ModelCheckpoint("kept", monitor=monitor, **settings)


@pytest.mark.parametrize("kind", [keeper, EarlyStopping])
def test_a_figure_that_nobody_logs_is_refused_after_the_first_validation(kind):
    with pytest.raises(
        ValueError,
        match=rf"{'EarlyStopping' if kind is EarlyStopping else 'ModelCheckpoint'} to watch a figure "
        rf"that the run logs, got 'prediction/residuum': of the \d+ .*the closest are {FIGURE}, ",
    ):
        fit(
            module(),
            kind("prediction/residuum"),
            prior=data(val_samples=4),
            max_steps=8,
            enable_checkpointing=True,
        )


@pytest.mark.parametrize(
    ("kind", "monitor", "settings"),
    [
        (keeper, FIGURE, {}),
        (keeper, "step", {"mode": "max"}),
        (keeper, "gone", {"save_top_k": 0}),
        (EarlyStopping, FIGURE, {}),
        (EarlyStopping, "gone", {"strict": False}),
    ],
)
def test_what_is_logged_or_may_be_missing_is_not(kind, monitor, settings, caplog):
    prior, callback = data(val_samples=4), kind(monitor, **settings)
    run = fit(module(), callback, prior=prior, max_steps=8, enable_checkpointing=True)
    assert run.global_step == 8
    assert "watch a figure" not in caplog.text


def test_figures_of_training_may_come_after_the_first_validation():
    prior = data(val_samples=4, length=2)
    late = {"log_every_n_steps": 6, "max_steps": 8, "enable_checkpointing": True}
    fit(module(), keeper(FIGURE, every_n_train_steps=6), prior=prior, **late)


def test_a_run_that_ends_before_it_validates_says_it_at_its_end(caplog):
    fit(module(), keeper("gone"), max_steps=2, enable_checkpointing=True)
    assert "the run ended before it logged 'gone', which ModelCheckpoint watches" in caplog.text
    assert "closest" not in caplog.text  # they would be figures of training
