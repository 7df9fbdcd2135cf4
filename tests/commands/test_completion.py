"""What a shell completes: verbs, options, and the words that an option may be."""

import subprocess

import pytest


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["sam"], "sample"),
        (["sample", "--met"], "--method"),
        (["sample", "--method", "mid"], "midpoint"),
        (["fit", "--model.student_"], "--model.student_lr"),
    ],
)
def test_bash_completes(freeflow, tmp_path, words, completed):
    code, out, err = freeflow("completion", "bash")
    assert code == 0, err
    (tmp_path / "script").write_text(out)
    line = " ".join(["freeflow", *words])
    asked = f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_freeflow; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [completed]


@pytest.mark.parametrize(("shell", "word"), [("zsh", "#compdef freeflow"), ("fish", "complete -c")])
def test_other_shells_have_a_script_of_their_own(freeflow, shell, word):
    code, out, err = freeflow("completion", shell)
    assert code == 0, err
    assert word in out
    assert "evaluate" in out


def test_an_unknown_shell_is_refused(freeflow):
    code, _, err = freeflow("completion", "cmd")
    assert code == 2
    assert "bash" in err
