"""What a task is given as a student is one."""

from typing import Any

from freeflow_lightning.students.flow_map import FlowMap


def expect_flow_map(given: Any) -> None:
    """Raise a ValueError, with how to open a student, for what is none."""
    if not isinstance(given, FlowMap):
        raise ValueError(
            f"expected a FlowMap, got a {type(given).__name__}: open a checkpoint with "
            "FlowMap.from_checkpoint(path), an exported folder with FlowMap.from_pretrained(path)"
        )
