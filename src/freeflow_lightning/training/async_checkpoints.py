"""AsyncCheckpoints: checkpoint files written by a thread, while the run goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO


@final
class AsyncCheckpoints(AtomicCheckpointIO):
    """Writes as AtomicCheckpointIO does, whole or not at all, in a thread: the run waits for a copy
    in the host's memory alone.

    Files are written, and older ones removed, in the order in which they were asked for: no
    checkpoint goes before the one that takes its place is there. One is written at a time; a
    second waits for the first, so that memory holds no more than one copy. What went wrong with a
    file is raised at the next one, or at the end of the run, which waits for the last. A folder
    to which sharded processes add their shares is written as ever.

    In a config: `trainer: {plugins: freeflow_lightning.training.async_checkpoints.AsyncCheckpoints}`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._jobs: list[Future[None]] = []

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        self.wait()
        copy = apply_to_collection(checkpoint, Tensor, copy_to_memory)
        self._run(super().save_checkpoint, copy, path, storage_options)

    def remove_checkpoint(self, path: str | Path) -> None:
        self._run(super().remove_checkpoint, path)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.wait()
        return super().load_checkpoint(*args, **kwargs)

    def teardown(self) -> None:
        self.wait()
        super().teardown()

    def wait(self) -> None:
        """Wait until everything is written (Raises: CheckpointWriteError where a file was not)."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()

    def _run(self, call: Callable[..., None], *arguments: Any) -> None:
        self._jobs.append(self._thread.submit(call, *arguments))


def copy_to_memory(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor on the host, which later steps do not change."""
    return tensor.detach().to("cpu", copy=True)
