"""RunRecord: what a run was started with, written into its folder and told to its loggers."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from freeflow_lightning.commands.changed_settings import CONFIG, config_of_resumption
from freeflow_lightning.training.atomic_write import write_text
from freeflow_lightning.training.elastic import elastic_file
from freeflow_lightning.training.log_settings import log_settings
from freeflow_lightning.training.resuming import Origin
from freeflow_lightning.training.run_loggers import MetricsCSV


class RunRecord(SaveConfigCallback):
    """Tells every process the folder that the first one has claimed, and writes the config there.

    A run's first config.yaml is kept: what it goes on with is config_from_step_N.yaml beside it.

    Args:
        parser: of the verb.
        config: as parsed.
        settings: the same in plain values, for the loggers' hyperparameters.
        origin: the config file, where there is one.
        resumed_at: the step that a run of this folder goes on from; None for a new run.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        *,
        settings: dict[str, Any],
        origin: Origin | None = None,
        resumed_at: int | None = None,
    ) -> None:
        super().__init__(parser, config, overwrite=True)
        self.settings = settings
        self.origin = origin
        self.resumed_at = resumed_at

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        first = trainer.loggers[0] if trainer.loggers else None  # a barebones Trainer has none
        if self.already_saved or not isinstance(first, MetricsCSV):
            return
        self.already_saved = True
        first.share_version(trainer)
        if not trainer.is_global_zero:
            return
        self._write(Path(first.log_dir))
        for logger in trainer.loggers[1:]:
            log_settings(logger, self.settings)

    def _write(self, run: Path) -> None:
        is_new = self.resumed_at is None or not (run / CONFIG).exists()
        name = CONFIG if is_new else config_of_resumption(self.resumed_at or 0)
        write_text(run / name, self.parser.dump(self.config, skip_none=False))
        if self.origin is not None and self.resumed_at is None:
            self.origin.write(run)
        if marker := elastic_file():
            (run / marker).touch()
