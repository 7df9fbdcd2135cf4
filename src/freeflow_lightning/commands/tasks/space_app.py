"""A page to play with the student of this folder: what a Space of the hub runs, and `python app.py`."""

from pathlib import Path

from freeflow_lightning import FlowMap
from freeflow_lightning.commands.tasks.demo_page import build_page, launch_page


def main() -> None:
    """Show the page where the Space's GRADIO_SERVER_NAME says, on this machine alone elsewhere."""
    student = FlowMap.from_pretrained(Path(__file__).parent)
    launch_page(build_page(student), server_name=None)


if __name__ == "__main__":
    main()
