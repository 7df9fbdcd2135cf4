"""freeflow demo: a page on this machine to play with a student."""

from functools import partial

from freeflow_lightning.commands.options import DeviceOptions, StudentOptions, TeacherOptions
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.tasks.demo_page import build_page, check_gradio, launch_page
from freeflow_lightning.students.open_student import pick_device


def demo(
    opening: StudentOptions,
    port: int = 7860,
    everyone: bool = False,
    browser: bool = False,
    *,
    beside: TeacherOptions,
    where: DeviceOptions,
) -> None:
    """Play with a student in the browser: class or prompt, guidance, seed and steps; it answers while
    one drags.

    The teacher, where the student holds it, stands beside it, from the same noise; below are a strip
    along delta and the best of many noises. Needs gradio: pip install 'freeflow-lightning[demo]'.
    `freeflow export --space` writes the same page for a Space of the hub.

    Args:
        opening: the student.
        port: of the page, http://127.0.0.1:PORT.
        everyone: let other machines of the network open the page too; this one alone if not given.
        browser: open it in the browser.
        beside: what takes the place of the checkpoint's own.
        where: the device.
    """
    if not 0 < port < 2**16:
        raise ValueError(f"expected --port from 1 to {2**16 - 1}, got {port}")
    check_gradio()  # before a checkpoint is read
    page = build_page(opening.open(beside.overrides).to(pick_device(where.device)))
    print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    host = "0.0.0.0" if everyone else "127.0.0.1"
    launch_page(page, server_name=host, server_port=port, inbrowser=browser)


main = partial(run, demo)
