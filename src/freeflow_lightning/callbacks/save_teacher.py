"""SaveTeacher: the averaged network of a flow-matching run as a file that SiTTeacher reads."""

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.teachers import SiTVelocity, save_sit
from freeflow_lightning.training.gather_full import gather_full
from freeflow_lightning.training.run_folder import folder_of


class SaveTeacher(Callback):
    """Writes teacher.safetensors into the run's folder when training ends."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Recipe) or not isinstance(pl_module.trained, SiTVelocity):
            raise ValueError(
                "SaveTeacher writes a SiTVelocity network that FlowMatchingModule trains; remove it"
            )
        refuse_second(trainer, self)

    def on_fit_end(self, trainer: Trainer, pl_module: Recipe) -> None:
        network = pl_module.evaluated
        assert isinstance(network, SiTVelocity)  # `setup` has seen to it, and an average is a copy
        # every process adds its shards
        weights = {key: gather_full(value) for key, value in network.net.state_dict().items()}
        folder = folder_of(trainer)
        if trainer.is_global_zero and folder is not None:
            save_sit(folder / "teacher.safetensors", network, weights)
