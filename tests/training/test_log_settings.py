"""Settings and pictures reach the loggers of a plain Trainer, each service in its own way."""

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from freeflow_lightning.callbacks import SampleGrid
from freeflow_lightning.training.log_settings import log_settings
from tiny import fit, module


def test_a_logger_that_takes_no_settings_does_not_stop_the_run():
    class Refuses(Logger):
        name, version = "refuses", 0

        def log_metrics(self, metrics, step=None): ...

        def log_hyperparams(self, params):
            raise NotImplementedError("not I")

    with pytest.warns(
        UserWarning, match=r"Refuses took no hyperparameters \(NotImplementedError: not I\)"
    ):
        log_settings(Refuses(), {"a": 1})


def test_a_recipe_made_in_python_says_its_settings(tmp_path):
    logger = CSVLogger(tmp_path, "csv", version=0)
    fit(module(student_lr=0.005), SampleGrid(3, steps=2), logger=logger, max_steps=1)
    (model,) = yaml.safe_load((tmp_path / "csv/version_0/hparams.yaml").read_text()).values()
    assert model["class_path"].endswith(".FreeFlowModule")
    assert model["init_args"]["student_lr"] == 0.005
    assert (tmp_path / "csv/version_0/samples/step_0000000.png").is_file()


def test_mlflow_has_settings_and_pictures_in_its_file_store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which newer versions ask for
    logger = MLFlowLogger("study", tracking_uri=f"file:{tmp_path}/ml", log_model=False)
    fit(module(student_lr=0.005), SampleGrid(3, steps=2), logger=logger, max_steps=1)
    run = tmp_path / "ml" / logger.experiment_id / logger.run_id
    assert (run / "params/model/init_args/student_lr").read_text() == "0.005"
    assert (run / "artifacts/samples/step_0000000.png").read_bytes().startswith(b"\x89PNG")


def test_wandb_has_settings_and_pictures_offline(tmp_path):
    pytest.importorskip("wandb")
    logger = WandbLogger("study", save_dir=tmp_path, offline=True)
    fit(module(student_lr=0.005), SampleGrid(3, steps=2), logger=logger, max_steps=1)
    assert logger.experiment.config["model"]["init_args"]["student_lr"] == 0.005
    (picture,) = tmp_path.rglob("media/images/samples_*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
