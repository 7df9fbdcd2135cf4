"""Configs by name: the package's, a file of the current folder before them, and what is near an unknown one."""

from pathlib import Path

import pytest

from freeflow_lightning.commands import built_in_configs
from freeflow_lightning.commands.built_in_configs import find_config, list_configs, summary_of
from places import ROOT


def test_the_list_is_the_folder_with_a_line_for_each(freeflow):
    code, out, err = freeflow("configs")
    assert code == 0, err
    listed = dict(line.split(maxsplit=1) for line in out.splitlines())
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert set(listed) == {path.with_suffix("").as_posix() for path in files}
    assert listed["digits"].startswith("The demo: distils the embedded digits teacher")
    assert min(len(summary) for summary in listed.values()) > 20
    assert len(set(listed.values())) == len(listed)  # each says what it alone is
    assert all(summary.endswith(".") for summary in listed.values())


def test_one_is_printed_as_it_is(freeflow):
    text = (ROOT / "configs" / "sit_xl2_256.yaml").read_text()
    assert freeflow("configs", "sit_xl2_256") == (0, text, "")


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("digits", "digits.yaml"),
        ("digits.yaml", "digits.yaml"),
        ("configs/digits.yaml", "digits.yaml"),
        ("search/prediction_alone", "search/prediction_alone.yaml"),
        ("prediction_alone", "search/prediction_alone.yaml"),
    ],
)
def test_a_name_is_the_packages_config(given, file):
    assert find_config(given) == ROOT / "configs" / file


@pytest.mark.parametrize(("file", "given"), [("digits", "digits"), ("digits.yaml", "digits")])
def test_a_file_of_the_current_folder_wins_and_is_said(capsys, file, given):
    Path(file).write_text("trainer: {}")
    assert find_config(given) == Path(file)
    assert capsys.readouterr().err == f"taking ./{file}, not the package's config digits\n"
    Path("mine.yaml").write_text("trainer: {}")
    assert find_config("mine.yaml") == Path("mine.yaml")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("verb", ["fit", "inspect", "bench", "configs"])
def test_an_unknown_name_lists_the_near_ones(freeflow, verb):
    words = ["digit"] if verb == "configs" else ["--config", "digit"]
    code, _, err = freeflow(verb, *words)
    assert code == 1
    assert "no config at digit, and none of that name in the package: did you mean digits" in err
    assert len(err.splitlines()) == 2


def test_an_installation_without_configs_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(built_in_configs, "PLACES", (tmp_path,))
    with pytest.raises(FileNotFoundError, match="this installation has no configs"):
        list_configs()


def test_a_config_without_a_comment_has_no_summary(tmp_path):
    (tmp_path / "bare.yaml").write_text("trainer: {}\n# a remark")
    assert summary_of(tmp_path / "bare.yaml") == ""
