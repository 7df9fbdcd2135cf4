"""The pages of README and site say what is so: their code runs, their commands run or are parsed, their
error messages are the source's, and the site is built without a warning.
"""

import ast
import functools
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule

from freeflow_lightning.commands.main import VERBS
from pages import (
    DOCS,
    PAGES,
    blocks_of,
    inline_commands,
    is_for_freeflow,
    lines_of,
    pages_in_order,
    words_after_freeflow,
)
from places import ROOT

ELSEWHERE = {
    "configs/sit_": "GPUs and public weights",
    "runs/sit_": "its student",
    "configs/sd35": "a pipeline of the hub",
    "stabilityai/": "a pipeline of the hub",
    "FreeFlow.pt": "the authors' weights",
    "owner/name": "an account of the hub",
    "XL/2": "minutes; tests/commands/test_bench.py and test_inspect.py run it small",
    "bench": "a minute; tests/commands/test_bench.py runs it",
    "compare": "hours; tests/commands/test_compare.py runs it small",
    "reproduce": "minutes; tests/commands/test_reproduce.py runs it small",
    "configs/methods/": "tests/test_methods.py trains each",
    "demo": "a page that stays open; tests/commands/tasks/test_demo.py opens it in a browser",
    "--space": "the same page; tests/commands/tasks/test_demo.py writes one",
    "fig7": "ten minutes; tests/commands/test_reproduce.py runs claims small",
    "--onnx": "ten seconds; tests/students/export/test_graphs.py runs it",
    "--compare": "the FID of every average; tests/students/export/test_command.py runs it",
    "runs/faces": "ten minutes of training",
    "runs/NAME": "any run",
    "RUN": "any run",
}
"""What is parsed and not run where a word of a command line begins so, and why."""

RUN = ["--trainer.accelerator=cpu", "--trainer.max_steps=2", "--trainer.enable_progress_bar=false"]
SMALL = {
    "fit": [*RUN, "--data.batch_size=8", "--data.length=2", "--data.val_samples=0"],
    "inspect": ["--steps=2", "--num_samples=2"],
    "sample": ["--num_samples=4"],
    "evaluate": ["--num_samples=20", "--reference_samples=20", "--reference_steps=2"],
    "report": ["--num_samples=20", "--steps=1"],
    "diagnose": ["--num_samples=16", "--fine_steps=8", "--auxiliary_steps=2"],
    "search": ["--num_samples=1", "--candidates=4", "--teacher_steps=2"],
}
"""What makes a verb's run short; given after the page's own words."""


def is_elsewhere(words):
    return any(word.startswith(start) for word in words for start in ELSEWHERE)


def make_small(words):
    verb = words[0]
    device = ["--device=cpu"] if "--device" in known_options(verb) else []
    return [*words, *SMALL.get(verb, []), *device]


def parse(words):
    """Read a command line as its verb does, and build nothing."""
    from freeflow_lightning.commands import run
    from freeflow_lightning.commands.built_in_configs import name_config_files
    from freeflow_lightning.commands.config import ConfigOnly
    from freeflow_lightning.commands.fit import SETTINGS
    from freeflow_lightning.commands.views.fit_help import name_classes
    from freeflow_lightning.recipes import Recipe

    verb, *rest = words
    if verb in ("fit", "validate"):
        ConfigOnly(
            Recipe,
            LightningDataModule,
            args=[verb, *name_config_files(name_classes(rest))],
            **SETTINGS,
        )
        return
    function = getattr(importlib.import_module(VERBS[verb][0]), verb)
    if "overrides" in run.inspect.signature(function).parameters:
        rest, _ = run.split_overrides(rest)
    run.parser_of(function).parse_args(run.name_main_option(rest, function))


def run_line(line, freeflow):
    """Run a command line of a page, or parse it where it needs what is not here."""
    program = line.words[0]
    if is_for_freeflow(line):
        words = words_after_freeflow(line)
        if is_elsewhere(words) or program == "torchrun":
            parse(words)
            return
        code, out, err = freeflow(*make_small(words))
        assert code == int(line.fails), out + err
    elif program == "cd":
        os.chdir(line.words[1])
    elif program == "make":
        assert f"\n{line.words[1]}:" in (ROOT / "Makefile").read_text()
    elif program == "sbatch":
        assert all((ROOT / word).is_file() for word in line.words[1:])
    else:
        assert line.words == ["pip", "install", "-e", ".[dev]"], line.words


NAMED_ROOMS = ("recipes", "teachers", "callbacks", "nets", "objectives", "flow", "metrics")
"""Where the names are from that a config may give without a path."""


@pytest.mark.slow
def test_the_pages_can_be_followed_from_the_first_to_the_last(freeflow, tmp_path, monkeypatch):
    """In one folder, as one would; extending.md has a test of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    done = []
    for page in [ROOT / "README.md", *pages_in_order()]:
        monkeypatch.chdir(tmp_path)
        for block in blocks_of(page) if page.name != "extending.md" else []:
            run_block(block, freeflow, done)


def run_block(block, freeflow, done):
    """Run a block of a page: a file is written, code is run, and lines that were not run before."""
    if block.title:
        Path(block.title).write_text(block.text)
        sys.modules.pop(Path(block.title).stem, None)  # another test's file of that name
    elif block.language == "python":
        Path("snippet.py").write_text(block.text)
        runpy.run_path("snippet.py")
    elif block.language == "yaml":
        check_settings(yaml.safe_load(block.text))
    elif block.language == "bash":
        for line in lines_of(block):
            if line not in done:
                run_line(line, freeflow)
            done += [line] if is_for_freeflow(line) else []


def check_settings(content):
    """Every class that a piece of YAML names is there and takes the arguments beside it."""
    if isinstance(content, list):
        for item in content:
            check_settings(item)
    if not isinstance(content, dict):
        return
    if "class_path" in content:
        taken = inspect.signature(find_class(content["class_path"])).parameters
        assert set(content.get("init_args", {})) <= set(taken), content
    for value in content.values():
        check_settings(value)


def find_class(path):
    """The class of a path, or of a name without one, as configs may give those of this package."""
    module, _, name = path.rpartition(".")
    rooms = [module] if module else [f"freeflow_lightning.{room}" for room in NAMED_ROOMS]
    owners = [importlib.import_module(room) for room in rooms]
    return next(getattr(owner, name) for owner in owners if hasattr(owner, name))


@functools.cache
def known_options(verb):
    """The options of a verb, as `freeflow VERB --help` lists them."""
    from freeflow_lightning.commands.main import help_of_verb

    return set(re.findall(r"--[\w.]+", help_of_verb(verb)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_within_text_have_the_options_that_they_name(page):
    for words in inline_commands(page):
        verb = words[1]
        assert verb in VERBS or verb == "VERB", words
        if verb in ("fit", "validate", "VERB"):
            continue  # their options are those of a config
        named = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        classes = {
            name for name in named if name.startswith(("--verifier.", "--teacher.", "--model."))
        }
        assert named - classes <= known_options(verb), words


def literals():
    """Every text of the source, f-strings with a gap for each value."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_error_messages_on_the_page_are_the_source_s():
    source = list(literals())
    quoted = [
        b.text.strip() for b in blocks_of(DOCS / "troubleshooting.md") if b.language == "text"
    ]
    assert len(quoted) > 15
    for message in quoted:
        parts = [part.strip() for part in re.split(r"(?<![\w=])\.\.\.|\.\.\.(?=,? for)", message)]
        parts = [part for part in parts if len(part) > 8]
        assert parts
        for part in parts:
            assert any(part in text for text in source), (message, part)


def test_links_between_readme_and_pages_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """mkdocs.yml is strict: a warning, such as a link that leads nowhere, ends it."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "site" / "api" / "objectives.html").read_text()
    assert "<mfrac>" in page
    assert r"\frac" not in page
