"""The demo's page: what it answers, and that it does so in a real browser while one drags."""

import shutil
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

import freeflow_lightning as ff
from freeflow_lightning.commands.tasks import demo_page
from freeflow_lightning.commands.tasks.demo import SHOWN, Demo
from freeflow_lightning.sampling.draw import Draw, pictures
from freeflow_lightning.sampling.sheets import tile
from freeflow_lightning.teachers import LatentSpace, SiTTeacher
from tiny import shaken

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = [
    name
    for name, found in {
        "gradio": find_spec("gradio"),
        "selenium": find_spec("selenium"),
        "chromium": CHROMIUM,
        "chromedriver": DRIVER,
    }.items()
    if not found
]


@pytest.fixture(scope="module")
def flow_map(checkpoint):
    return ff.FlowMap.from_checkpoint(checkpoint)


def test_it_shows_the_samples_of_freeflow_sample(flow_map):
    demo = Demo(flow_map)
    picture, words = demo.student("class 3", 1.5, 7, 1)
    z, condition = Draw(7, (3,)).noise(flow_map.teacher, torch.arange(SHOWN))
    drawn = pictures(flow_map.teacher, flow_map(z, condition, 1.5))
    framed = picture.reshape(2, 100, SHOWN // 2, 100, 3)
    inside = framed[:, 2:-2:24, :, 2:-2:24].reshape(8, 16, 3)
    assert np.array_equal(inside, tile(drawn, SHOWN // 2))
    assert (framed[:, [0, 1, -2, -1]] == 255).all()  # white between one sample and the next
    assert words.startswith("student, 1 step: 1 evaluation, ")
    assert demo.teacher("any", 1.5, 7, 3).words.startswith("teacher, 3 heun steps: 12 evaluations")
    assert demo.teacher("any", 1.0, 7, 3).words.startswith("teacher, 3 heun steps: 6 evaluations")


def test_a_strip_ends_at_the_sample(flow_map):
    demo = Demo(flow_map)
    strip = demo.strip("class 3", 1.5, 7).picture
    first = demo.student("class 3", 1.5, 7, 1).picture[:100, :100]
    assert strip.shape == (100, 100 * SHOWN, 3)
    assert np.abs(strip[:, -100:].astype(int) - first).max() <= 1


class Shrink(nn.Module):
    """A student that maps z to z / 2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))  # tells the device

    def forward(self, x, t, condition=None, *, delta, gamma):
        return -x / 2


def test_the_best_of_many_is_the_most_of_its_class():
    teacher = SiTTeacher("embedded:digits")
    student = ff.FlowMap(Shrink(), teacher)
    demo = Demo(student)
    assert demo.choices == ["any", *"0123456789"]
    answer = demo.best("3", 1.0, 0, 16)
    z, condition = Draw(0, (3,)).noise(teacher, torch.arange(16))
    score = demo.classifier.outputs(pictures(teacher, student(z, condition, 1.0)))["logits"]
    best = score.log_softmax(1)[:, 3].max()
    assert f"log probability of the class {best:.2g} for the best" in answer.words


def test_without_a_teacher_and_without_classes(flow_map):
    alone = Demo(ff.FlowMap(flow_map.network, LatentSpace((3, 4, 4), 5, None)))
    assert not alone.has_teacher
    assert alone.choices == ["any", *(f"class {k}" for k in range(5))]


def test_the_verb_says_what_is_missing(freeflow, monkeypatch):
    monkeypatch.setattr(demo_page, "find_spec", lambda name: None)
    code, _, err = freeflow("demo", "gone.ckpt")
    assert code == 1
    assert "the page needs gradio: pip install 'freeflow-lightning[demo]'" in err


@pytest.mark.parametrize(("words", "host"), [([], "127.0.0.1"), (["--everyone"], "0.0.0.0")])
def test_other_machines_see_it_only_if_asked(freeflow, checkpoint, monkeypatch, words, host):
    from freeflow_lightning.commands import demo as verb

    seen = {}
    monkeypatch.setattr(verb, "check_gradio", lambda: None)
    monkeypatch.setattr(verb, "build_page", lambda student: student)
    monkeypatch.setattr(verb, "launch_page", lambda page, **settings: seen.update(settings))
    code, out, err = freeflow("demo", checkpoint, "--port", 7999, *words)
    assert code == 0, err
    assert seen == {"server_name": host, "server_port": 7999, "inbrowser": False}
    assert "http://127.0.0.1:7999" in out


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)}")
def test_the_picture_changes_while_one_drags_in_a_real_browser(checkpoint, tmp_path):
    student = ff.FlowMap.from_checkpoint(checkpoint)
    shaken(student.network)  # after two steps of training guidance moves no pixel
    page = demo_page.build_page(student)
    demo_page.launch_page(page, prevent_thread_lock=True)
    try:
        with browser(tmp_path) as window:
            window.get(page.local_url)
            before = wait_for(window, "student", "")
            for name in ("teacher", "along-delta"):
                wait_for(window, name, "")
            drag(window, "guidance")
            assert wait_for(window, "student", before) != before
            words = window.find_element("id", "student-words").text
            assert words.startswith("student, 1 step: 1 evaluation,")
    finally:
        page.close()


def browser(home):
    from contextlib import contextmanager

    from selenium import webdriver

    @contextmanager
    def opened():
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{word}")
        options.add_argument(f"--user-data-dir={home / 'profile'}")
        window = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            yield window
        finally:
            window.quit()

    return opened()


def wait_for(window, name, before, seconds=90):
    """The address of a picture that is another than the one before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for picture in window.find_elements("css selector", f"#{name} img"):
            source = picture.get_attribute("src")
            if source and source != before:
                return source
        time.sleep(0.1)
    raise AssertionError(f"no new picture of {name} within {seconds} s")


def drag(window, name):
    """Drag a slider from where it is to its right end, as a mouse does."""
    from selenium.webdriver import ActionChains

    handle = window.find_element("css selector", f"#{name} input[type=range]")
    half = handle.size["width"] // 2
    chain = ActionChains(window).move_to_element(handle).click_and_hold()
    chain.move_by_offset(half // 2, 0).move_by_offset(half // 3, 0).release().perform()
