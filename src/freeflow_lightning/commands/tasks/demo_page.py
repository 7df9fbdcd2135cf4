"""The demo's page: sliders, and the pictures that answer while one drags. It needs gradio."""

from importlib.util import find_spec
from typing import Any

from freeflow_lightning.commands.tasks.demo import ANY, Demo
from freeflow_lightning.students.flow_map import FlowMap

TITLE = "A one-step student"
HELP = "Drag: the student answers in one network evaluation, or in as many as its steps."
BESIDE = " Beside it its teacher, from the same noise."
LIVE: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
"""Of events while one drags: what is asked last is answered last, and nothing flickers."""
FONTS = ["system-ui", "sans-serif"]
"""The browser's own: the page asks no other host for any."""


def check_gradio() -> None:
    """Raise a ValueError where gradio is missing."""
    if find_spec("gradio") is None:
        raise ValueError(
            "the page needs gradio: pip install 'freeflow-lightning[demo]' (or gradio), then again"
        )


def build_page(flow_map: FlowMap) -> Any:
    """Return the page of a student, a gradio.Blocks; `launch` shows it.

    Raises:
        ValueError: gradio is missing.
    """
    check_gradio()
    import gradio as gr  # noqa: PLC0415 (an extra)

    demo = Demo(flow_map)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n\n{HELP}{BESIDE if demo.has_teacher else ''}")
        asked = _controls(gr, demo)
        with gr.Row():
            _answer(gr, page, demo.student, "student", [*asked, _student_steps(gr, demo)])
            if demo.has_teacher:
                steps = gr.Slider(1, 64, 8, step=1, label="teacher's Heun steps", render=False)
                _answer(gr, page, demo.teacher, "teacher", [*asked, steps])
        if demo.goes_anywhere:
            _answer(gr, page, demo.strip, "along delta, 1/8 to 1", asked)
        if demo.classifier is not None:
            most = gr.Slider(8, 256, 32, step=8, label="candidates", render=False)
            _answer(gr, page, demo.best, "best of N", [*asked, most])
    return page


def launch_page(page: Any, **settings: Any) -> None:
    """Show a page on this machine alone, until Ctrl-C, unless the settings of `launch` say otherwise."""
    import gradio as gr  # noqa: PLC0415 (an extra)

    theme = gr.themes.Default(font=FONTS, font_mono=["monospace"])
    page.launch(theme=theme, quiet=True, **{"server_name": "127.0.0.1"} | settings)


def _controls(gr: Any, demo: Demo) -> list[Any]:
    """Class, guidance and seed."""
    student = demo.flow_map
    low, high = student.guidance_range
    choices = demo.choices
    with gr.Row():
        choice = gr.Dropdown(
            choices or [ANY],
            value=ANY,
            label="class" if student.teacher.num_classes else "prompt",
            visible=bool(choices),
        )
        guidance = gr.Slider(
            low,
            max(high, low + 1e-3),
            student.evaluation_guidance,
            step=0.01,
            label="guidance",
            elem_id="guidance",
            visible=low < high,
        )
        seed = gr.Slider(0, 1000, 0, step=1, label="seed", elem_id="seed")
    return [choice, guidance, seed]


def _student_steps(gr: Any, demo: Demo) -> Any:
    """Return how many steps, of a student that was trained for several."""
    numbers = demo.flow_map.trained.numbers(range(1, 9))
    if demo.flow_map.trained.starts is not None:
        return gr.Radio(numbers, value=1, label="steps", visible=len(numbers) > 1, render=False)
    several = len(numbers) > 1
    return gr.Slider(
        1, 8 if several else 2, 1, step=1, label="steps", visible=several, render=False
    )


def _answer(gr: Any, page: Any, ask: Any, name: str, inputs: list[Any]) -> None:
    """A picture with its words, and its own sliders below, so that pictures beside it begin at one
    height; drawn on loading and whenever an input changes.
    """
    with gr.Column():
        gr.Markdown(f"**{name}**")
        place = name.split(",", maxsplit=1)[0].replace(" ", "-")
        picture = gr.Image(
            show_label=False, format="png", interactive=False, buttons=[], elem_id=place
        )
        words = gr.Markdown(elem_id=f"{place}-words")
        for own in inputs:
            if not own.is_rendered:
                own.render()
    changes = [each.change for each in inputs]
    gr.on(
        [page.load, *changes], lambda *given: tuple(ask(*given)), inputs, [picture, words], **LIVE
    )
