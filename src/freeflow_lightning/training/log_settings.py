"""What a run was started with, for the loggers' hyperparameters."""

from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn


def log_settings(logger: Logger, settings: dict[str, Any]) -> None:
    """Give a logger the run's settings; one that refuses them is said and does not stop the run."""
    try:
        logger.log_hyperparams(settings)
    except Exception as error:  # a service may refuse, say, other settings for a run that it knows
        why = f"{type(error).__name__}: {error}"
        rank_zero_warn(f"{type(logger).__name__} took no hyperparameters ({why})")
