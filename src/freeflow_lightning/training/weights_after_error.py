"""Whether the weights that an error leaves may be saved."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from freeflow_lightning.training.atomic_write import is_full_disk
from freeflow_lightning.training.finite import NonFiniteError
from freeflow_lightning.training.signals import Stopped


def may_save_after(trainer: Trainer, exception: BaseException) -> bool:
    """Return whether the weights after an exception are those of the last step, and this process
    may write them.
    """
    if isinstance(exception, SystemExit) and not exception.code:
        return False  # a callback's way to end the run: Requeue has saved
    if is_full_disk(exception):
        return False
    if isinstance(exception, NonFiniteError) and exception.step != trainer.global_step:
        return False
    if trainer.lightning_module.weights_step != trainer.global_step:
        return False
    if isinstance(exception, Stopped):
        return True
    is_sharded = isinstance(trainer.strategy, ModelParallelStrategy) and trainer.world_size > 1
    return trainer.is_global_zero and not is_sharded
