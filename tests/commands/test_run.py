"""A function as a verb: shared options are flat, and the verb takes them as one object."""

from dataclasses import dataclass

import pytest

from freeflow_lightning.commands.main import VERBS, WITHOUT_TORCH
from freeflow_lightning.commands.options import StudentOptions
from freeflow_lightning.commands.run import Options, run

SHARED = ("--checkpoint", "--average", "--network", "--teacher", "--trust", "--device")


@dataclass(frozen=True, kw_only=True)
class Chosen(Options):
    """what is chosen

    Args:
        path: the file.
        count: how many.
    """

    path: str
    count: int = 3


@pytest.fixture
def call(monkeypatch):
    """Run a verb with words of the command line: call(verb, *words)."""

    def call(verb, *words, **named):
        monkeypatch.setattr("sys.argv", ["freeflow", verb.__name__, *words])
        run(verb, **named)

    return call


@pytest.mark.parametrize("words", [("--path", "a.pt", "--count", "4"), ("a.pt", "--count=4")])
def test_shared_options_are_flat_and_the_main_one_needs_no_name(call, words):
    seen = []

    def verb(seed: int = 0, *, chosen: Chosen) -> None:
        seen.append((seed, chosen))

    call(verb, *words)
    assert seen == [(0, Chosen(path="a.pt", count=4))]


def test_a_file_of_options_and_short_names(call, tmp_path):
    seen = []

    def verb(chosen: Chosen, name: str = "") -> None:
        seen.append((chosen.count, name))

    (tmp_path / "options.yaml").write_text("path: a.pt\ncount: 7\n")
    call(
        verb,
        "--config",
        str(tmp_path / "options.yaml"),
        "--name",
        "Long",
        short_names={"Long": "module.Long"},
    )
    assert seen == [(7, "module.Long")]


def test_what_changes_a_config_is_handed_on(call):
    seen = []

    def verb(config: str | None = None, overrides: list[str] | None = None) -> None:
        seen.append((config, overrides))

    call(verb, "a.yaml", "--model.alpha_ref", "0.6", "--data.seed=1")
    assert seen == [("a.yaml", ["--model.alpha_ref", "0.6", "--data.seed=1"])]


def test_a_missing_option_is_named(call, capsys):
    def verb(chosen: Chosen) -> None:
        raise AssertionError

    with pytest.raises(SystemExit):
        call(verb)
    assert "missing: path" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("fit", "validate")])
def test_each_verb_has_chapters_of_options_with_help(freeflow, verb):
    code, out, _ = freeflow(verb, "--help")
    assert code == 0
    assert f"\nof {verb}:" in out
    assert verb in WITHOUT_TORCH or "--device DEVICE" in out
    if verb in ("sample", "evaluate", "search", "export"):
        assert "\nthe student:" in out
        assert "FreeFlow authors" in out  # of StudentOptions, not of its parent
        assert all(f"  {name} " in out for name in SHARED)
    assert StudentOptions.__doc__.splitlines()[0] == "the student"
