"""Pictures reach every logger that can take them."""

from unittest.mock import MagicMock

import numpy as np
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from PIL import Image

from freeflow_lightning.callbacks import SampleGrid, samples
from freeflow_lightning.callbacks.samples import log_picture
from freeflow_lightning.sampling.picture_rows import picture_rows
from freeflow_lightning.teachers import SiTTeacher
from tiny import fit, module

PICTURE = np.zeros((2, 3, 3), np.uint8)


class Plain(Logger):
    """As WandbLogger: no folder of its own for each run."""

    name, version, save_dir = "project", "abc", "mine"

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, *arguments, **named): ...


class WithImages(Plain):
    def __init__(self):
        self.seen = []

    def log_image(self, key, images, step=None, **named):
        self.seen.append((key, images, step))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TensorBoardLogger, ["add_image", ("samples", PICTURE, 7), {"dataformats": "HWC"}]),
        (
            MLFlowLogger,
            ["log_image", ("run", PICTURE), {"artifact_file": "samples/step_0000007.png"}],
        ),
        (CometLogger, ["log_image", (PICTURE,), {"name": "samples", "step": 7}]),
    ],
)
def test_each_service_is_asked_in_its_own_way(kind, expected):
    logger = MagicMock(spec=kind, experiment=MagicMock(), run_id="run")
    log_picture(logger, "samples", PICTURE, 7)
    (call,) = logger.experiment.mock_calls
    assert list(call) == expected


def test_a_logger_with_lightnings_method_is_given_a_list():
    logger = WithImages()
    log_picture(logger, "samples", PICTURE, 7)
    assert logger.seen == [("samples", [PICTURE], 7)]


@pytest.mark.parametrize("logger", [Plain(), DummyLogger(), CSVLogger(".")])
def test_a_logger_without_pictures_is_left_alone(logger):
    log_picture(logger, "samples", PICTURE, 7)


def test_a_grid_goes_beside_the_checkpoints_and_to_the_logger(tmp_path):
    logger = WithImages()
    fit(module(), SampleGrid(3, steps=2), logger=logger, max_steps=1)
    (path,) = tmp_path.rglob("*.png")
    assert path == tmp_path / "mine/project/abc/samples/step_0000000.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    ((name, (shown,), step),) = logger.seen
    assert (name, step, shown.dtype, shown.shape[-1]) == ("samples", 0, np.uint8, 3)


def test_classes_are_called_by_their_names(monkeypatch):
    seen = []
    monkeypatch.setattr(
        samples, "picture_rows", lambda *given: seen.append(given) or picture_rows(*given)
    )
    teacher = SiTTeacher("embedded:faces")
    fit(module(teacher, network=None), SampleGrid(3, steps=2), logger=WithImages(), max_steps=1)
    assert [captions for _, _, captions in seen] == [["short hair", "glasses", "hat"]]


def test_a_trial_run_writes_nothing(tmp_path):
    fit(module(), SampleGrid(3, steps=2), logger=WithImages(), fast_dev_run=True)
    assert list(tmp_path.rglob("*.png")) == []
